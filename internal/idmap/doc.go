// Package idmap gives each sandbox host ids of its own and writes id maps.
//
// Its place on the road: whoever creates a sandbox calls Allocate (root) or Rootless and puts the result into the spec's
// linux.uidMappings and gidMappings; package plan checks them with Validate; package native writes them with
// WriteMaps while the child waits, and gives back the range with Release.
//
// Ranges are 65,536 ids from 524288 to 1879048191, the part of the id space that systemd sets aside for containers
// (https://systemd.io/UIDS-GIDS). A range is taken by making a symbolic link: symlink(2) is atomic, refuses a name that
// exists, and carries the owner's name as its target, so a crash leaves no slot without an owner and no lock is
// needed to take one. The links are read, never followed.
package idmap
