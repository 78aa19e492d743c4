// Package oci is the command line of an OCI runtime, as runc has it: containerd, Docker, Podman and CRI-O call it.
//
// Its place on the road: a front end beside package cli. An engine's bundle is a spec already, so the road begins at plan;
// the bundle is obeyed as written. There is no supervisor: what a container is stands in a state file, and what it does
// the kernel is asked.
//
// The life of a container: `create` makes the process and everything around it, and leaves the process waiting at a socket in
// the container's folder; `start` connects and lets it execute the program; `delete` clears away. Every verb finds the
// container by its folder and holds its lock meanwhile.
package oci
