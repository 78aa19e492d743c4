package cgroup

import (
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fields sets one field of linux.resources at a time, by its name in the Go types.
var fields = map[string]func(*specs.LinuxResources){
	"LinuxResources.Devices":        func(r *specs.LinuxResources) { r.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}} },
	"LinuxMemory.Limit":             memory(func(m *specs.LinuxMemory) { m.Limit = ptr(int64(1 << 20)) }),
	"LinuxMemory.Reservation":       memory(func(m *specs.LinuxMemory) { m.Reservation = ptr(int64(1 << 20)) }),
	"LinuxMemory.Swap":              memory(func(m *specs.LinuxMemory) { m.Swap = ptr(int64(-1)) }),
	"LinuxMemory.Kernel":            memory(func(m *specs.LinuxMemory) { m.Kernel = ptr(int64(1 << 20)) }), //nolint:staticcheck // old, and bundles still have it
	"LinuxMemory.KernelTCP":         memory(func(m *specs.LinuxMemory) { m.KernelTCP = ptr(int64(1 << 20)) }),
	"LinuxMemory.Swappiness":        memory(func(m *specs.LinuxMemory) { m.Swappiness = ptr(uint64(10)) }),
	"LinuxMemory.DisableOOMKiller":  memory(func(m *specs.LinuxMemory) { m.DisableOOMKiller = ptr(true) }),
	"LinuxMemory.UseHierarchy":      memory(func(m *specs.LinuxMemory) { m.UseHierarchy = ptr(true) }),
	"LinuxMemory.CheckBeforeUpdate": memory(func(m *specs.LinuxMemory) { m.CheckBeforeUpdate = ptr(true) }),
	"LinuxCPU.Shares":               cpu(func(c *specs.LinuxCPU) { c.Shares = ptr(uint64(512)) }),
	"LinuxCPU.Quota":                cpu(func(c *specs.LinuxCPU) { c.Quota = ptr(int64(5000)) }),
	"LinuxCPU.Burst":                cpu(func(c *specs.LinuxCPU) { c.Burst = ptr(uint64(1000)) }),
	"LinuxCPU.Period":               cpu(func(c *specs.LinuxCPU) { c.Period = ptr(uint64(10000)) }),
	"LinuxCPU.RealtimeRuntime":      cpu(func(c *specs.LinuxCPU) { c.RealtimeRuntime = ptr(int64(1000)) }),
	"LinuxCPU.RealtimePeriod":       cpu(func(c *specs.LinuxCPU) { c.RealtimePeriod = ptr(uint64(10000)) }),
	"LinuxCPU.Cpus":                 cpu(func(c *specs.LinuxCPU) { c.Cpus = "0" }),
	"LinuxCPU.Mems":                 cpu(func(c *specs.LinuxCPU) { c.Mems = "0" }),
	"LinuxCPU.Idle":                 cpu(func(c *specs.LinuxCPU) { c.Idle = ptr(int64(1)) }),
	"LinuxPids.Limit":               func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(7))} },
	"LinuxBlockIO.Weight":           blockIO(func(b *specs.LinuxBlockIO) { b.Weight = ptr(uint16(100)) }),
	"LinuxBlockIO.LeafWeight":       blockIO(func(b *specs.LinuxBlockIO) { b.LeafWeight = ptr(uint16(100)) }),
	"LinuxWeightDevice.Weight":      blockIO(func(b *specs.LinuxBlockIO) { b.WeightDevice = []specs.LinuxWeightDevice{{Weight: ptr(uint16(100))}} }),
	"LinuxWeightDevice.LeafWeight": blockIO(func(b *specs.LinuxBlockIO) {
		b.WeightDevice = []specs.LinuxWeightDevice{{LeafWeight: ptr(uint16(100))}}
	}),
	"LinuxBlockIO.ThrottleReadBpsDevice": blockIO(func(b *specs.LinuxBlockIO) { b.ThrottleReadBpsDevice = []specs.LinuxThrottleDevice{throttled(8, 0, 1)} }),
	"LinuxBlockIO.ThrottleWriteBpsDevice": blockIO(func(b *specs.LinuxBlockIO) {
		b.ThrottleWriteBpsDevice = []specs.LinuxThrottleDevice{throttled(8, 0, 1)}
	}),
	"LinuxBlockIO.ThrottleReadIOPSDevice": blockIO(func(b *specs.LinuxBlockIO) {
		b.ThrottleReadIOPSDevice = []specs.LinuxThrottleDevice{throttled(8, 0, 1)}
	}),
	"LinuxBlockIO.ThrottleWriteIOPSDevice": blockIO(func(b *specs.LinuxBlockIO) {
		b.ThrottleWriteIOPSDevice = []specs.LinuxThrottleDevice{throttled(8, 0, 1)}
	}),
	"LinuxResources.HugepageLimits": func(r *specs.LinuxResources) {
		r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}}
	},
	"LinuxNetwork.ClassID": func(r *specs.LinuxResources) { r.Network = &specs.LinuxNetwork{ClassID: ptr(uint32(1))} },
	"LinuxNetwork.Priorities": func(r *specs.LinuxResources) {
		r.Network = &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 1}}}
	},
	"LinuxRdma.HcaHandles": func(r *specs.LinuxResources) {
		r.Rdma = map[string]specs.LinuxRdma{"mlx": {HcaHandles: ptr(uint32(1))}}
	},
	"LinuxRdma.HcaObjects": func(r *specs.LinuxResources) {
		r.Rdma = map[string]specs.LinuxRdma{"mlx": {HcaObjects: ptr(uint32(1))}}
	},
	"LinuxResources.Unified": func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.high": "1"} },
}

func memory(set func(*specs.LinuxMemory)) func(*specs.LinuxResources) {
	return func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{}; set(r.Memory) }
}

func cpu(set func(*specs.LinuxCPU)) func(*specs.LinuxResources) {
	return func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{}; set(r.CPU) }
}

func blockIO(set func(*specs.LinuxBlockIO)) func(*specs.LinuxResources) {
	return func(r *specs.LinuxResources) { r.BlockIO = &specs.LinuxBlockIO{}; set(r.BlockIO) }
}

// passedOver are the fields that make no write at creation, and why that confines nobody less: they are runc's, too.
var passedOver = map[string]string{
	"LinuxMemory.Kernel":            "the kernel has given that limit up",
	"LinuxMemory.UseHierarchy":      "every hierarchy is one since Linux 5.11",
	"LinuxMemory.CheckBeforeUpdate": "is about an update",
	"v2 LinuxMemory.KernelTCP":      "memory.max counts the buffers of sockets",
	"v2 LinuxMemory.Swappiness":     "a hint for reclaim",
}

// TestNoResourceIsPassedOver: every field of linux.resources becomes a write, or an error, in both versions; this test
// fails when a newer runtime-spec brings another field.
func TestNoResourceIsPassedOver(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[specs.LinuxResources](), reflect.TypeFor[specs.LinuxMemory](), reflect.TypeFor[specs.LinuxCPU](), reflect.TypeFor[specs.LinuxPids](),
		reflect.TypeFor[specs.LinuxBlockIO](), reflect.TypeFor[specs.LinuxWeightDevice](), reflect.TypeFor[specs.LinuxNetwork](), reflect.TypeFor[specs.LinuxRdma](),
	} {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := typ.Name() + "." + f.Name
			known[name] = true
			switch {
			case f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct, f.Anonymous, name == "LinuxResources.Rdma", name == "LinuxBlockIO.WeightDevice":
				continue // its own fields are here
			}
			if fields[name] == nil {
				t.Errorf("%s is in no case", name)
			}
		}
	}
	for name, set := range fields {
		if !known[name] {
			t.Errorf("%s is no field", name)
		}
		var r specs.LinuxResources
		set(&r)
		v2, err2 := settingsV2(&r)
		s := settings{}
		list, err1 := settingsV1(&r)
		s.devices(r.Devices)
		list = append(list, s.list...)
		if passedOver[name] == "" && len(list) == 0 && err1 == nil {
			t.Errorf("version 1 passes %s over", name)
		}
		filtered := len(r.Devices) > 0 // by a program, not by a file
		if passedOver[name] == "" && passedOver["v2 "+name] == "" && len(v2) == 0 && err2 == nil && !filtered {
			t.Errorf("version 2 passes %s over", name)
		}
	}
}
