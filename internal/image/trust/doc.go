// Package trust holds images against what they have to be signed with: it checks signatures of cosign's making (or of
// openssl's: what is signed is simple), offline, with nothing but the public keys that are given.
//
// Its place on the road: between the store and everybody who is about to use an image. Signatures come into the store with the
// image (image.Store.Attach) and are checked when it comes, before anything of it is unpacked, and again at every run that
// demands them: a check costs some hundred microseconds, and nothing that says "this was checked" has to be believed.
//
// A signature counts for an image when it is by one of the keys, and what it was made over says that it is a signature of a
// container image (an attestation is none), and has the digest of the image's manifest, or of the index that this manifest
// was chosen from. The second is as good as the first: an index has the digests of its manifests, so whoever signed the
// index signed exactly those, and that the manifest is one of them is read in the index itself, whose bytes have the signed
// digest. Which of them is taken is decided by the platform that was asked for, not by anybody on the way.
//
// What a signature does not say is which tag points to the image today: a registry can serve an older image that is signed
// as well. Only a digest in the reference rules that out.
//
// References: cosign's specs/SIGNATURE_SPEC.md and specs/BUNDLE_SPEC.md; DSSE, protocol.md and envelope.md
// (github.com/secure-systems-lab/dsse); in-toto attestation, spec/v1/statement.md.
package trust
