// Package archive brings images in and out without a network: OCI image layouts and docker's archives are loaded and saved, root
// file systems are imported.
//
// Its place on the road: floor 1, above the store and internal/image/build, in the program brig-image. Everything that comes in is a
// stranger's. An archive is never unpacked: it is an index of names and offsets, from which documents are read into bounded memory and
// blobs go into the store by their digest, so that a name in it, a link or a device can reach nothing. What of it becomes an image is
// verified as what comes from a registry is: every blob by its digest, every layer by its diffID too, when the root file system is made.
//
// The readers and writers are our own and not those of go-containerregistry (pkg/v1/tarball, pkg/v1/layout): these read the whole archive again for
// every file of it, hold configurations of any size in memory, follow whatever links a folder has, take the compression
// of the first layer for that of all, and write neither of the two formats in one file.
package archive
