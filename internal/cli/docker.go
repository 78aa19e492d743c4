package cli

import "fmt"

// dockersVerbs are what fingers type that know docker, and what it is here.
var dockersVerbs = map[string]string{
	"pull":    "brig image pull",
	"images":  "brig image ls",
	"rmi":     "brig image rm",
	"load":    "brig image load",
	"save":    "brig image save",
	"tag":     "brig image tag",
	"import":  "brig image import",
	"history": "brig image history",
}

// dockersOthers are those that Brig has not, and what does it.
var dockersOthers = map[string]string{
	"build":  "brig builds no images: buildah, podman and docker do, and `brig image load` takes what they save; `brig image import` makes one of a folder",
	"push":   "brig sends nothing to registries: skopeo does, also from the folder that `brig image save -o FOLDER/` writes",
	"login":  "brig keeps no passwords: it uses those that `podman login` and `docker login` keep",
	"logout": "brig keeps no passwords: `podman logout` and `docker logout` remove those that it uses",
	"create": "a sandbox is made and started at once, by `brig run -d`",
	"start":  "a sandbox that has ended is not started again; `brig run` makes another",
	"cp":     "files come in and go out by `brig run -v`, or through `brig exec -i NAME tar`",
	"top":    "`brig exec NAME ps` shows the processes, `brig stats` what they take",
	"attach": "`brig logs -f` follows what it writes, `brig exec -it` opens a shell beside it",
}

// dockersFlags are flags of docker's that Brig has not, and what does it.
var dockersFlags = map[string]string{
	"runtime": "`--isolation native|gvisor` says which kernel serves the program",
}

// dockersWord gives what a verb of docker's is here, or nil.
func dockersWord(args []string) error {
	if len(args) == 0 {
		return nil
	}
	if here := dockersVerbs[args[0]]; here != "" {
		return fmt.Errorf("there is no `brig %s`; it is `%s`", args[0], here)
	}
	if text := dockersOthers[args[0]]; text != "" {
		return fmt.Errorf("there is no `brig %s`: %s", args[0], text)
	}
	return nil
}
