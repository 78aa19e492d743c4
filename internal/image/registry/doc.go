// Package registry brings images from registries into the store, by the distribution specification
// (github.com/opencontainers/distribution-spec, spec.md).
//
// Its place on the road: between the network and the store, in the program brig-image. Nothing that a registry says is
// believed: what is fetched by a digest has that digest and the announced size before it is in the store, and what is
// fetched by a tag is known by the digest of what came. Credentials go to the registry that they are kept for, and to
// the token server that it names, and to nobody else.
//
// go-containerregistry does the handshake (transport.Ping, transport.Exchange). Requests are made here, since its readers
// cannot go on in the middle of a blob, keep credentials by the host's name alone when they are redirected, and take
// plain HTTP for every private address.
package registry
