package gvisor

// links are what gVisor's network has (boot.CreateLinksAndRoutesArgs).
type links struct {
	LoopbackLinks []link
}

type link struct {
	Name      string
	Addresses []address
	Routes    []route
}

type address struct {
	Address   string
	PrefixLen int
}

type route struct{ Destination network }

// network is a net.IPNet as JSON has it.
type network struct {
	IP   string
	Mask []byte
}

// loopback is the whole network of a sandbox with none: without it the guest would not even have lo.
var loopback = links{LoopbackLinks: []link{{
	Name:      "lo",
	Addresses: []address{{"127.0.0.1", 8}, {"::1", 128}},
	Routes: []route{
		{network{"127.0.0.0", []byte{255, 0, 0, 0}}},
		{network{"::1", []byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}}},
	},
}}}
