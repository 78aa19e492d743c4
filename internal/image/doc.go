// Package image keeps container images and gives them to sandboxes: a store of verified blobs, one EROFS image for every
// manifest, and the references that people know them by.
//
// Its place on the road: the parent prepares the root file system here before the spec is written. It reads no registry
// and no tar; that is for the packages below it (registry, build, archive), which only the program brig-image has.
//
// The store may be used by any number of processes at once, and any of them may be killed at any instruction. Files come into
// it by rename(2) when they are whole and verified. Nothing in it is believed because it is there: blobs are named by
// their digest, small files carry a checksum, and an EROFS image is checked in full whenever the file is not the one that
// was checked last. What is found to be damaged is set aside, so that the next pull brings it again. A reference is written last, when
// all that it leads to is on the disk.
//
//	blobs/sha256/HEX    indexes, manifests, configs, layers as a registry has them
//	refs/HEX            a reference: its name, and what it points to
//	attached/HEX        which signatures and attestations belong to manifest or index HEX
//	roots/HEX.erofs     the root file system of manifest HEX
//	roots/HEX           its record
//	tmp/                what is being made, or was set aside
//	locks/              flock(2) files
package image
