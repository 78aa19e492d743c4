package imagecli

import (
	"errors"
	"slices"
	"sync"

	"brig/internal/image"
	"brig/internal/image/build"
	"brig/internal/operator"
)

// making is an image's root that is made while its layers come.
type making struct {
	s      *image.Store
	lines  *bars
	policy *operator.Policy
	stop   func() // ends the pull: the rest of an image that is refused need not come

	mu      sync.Mutex
	change  *sync.Cond
	arrived []image.Digest
	failed  error
	begun   bool
	done    chan made
}

type made struct {
	record *image.Record
	err    error
}

// errNotFetched ends a making whose layers do not come; the pull has said why.
var errNotFetched = errors.New("its layers could not be fetched")

// begin makes the root of a manifest that was admitted. The layers that are here already count as arrived.
func (k *making) begin(manifest image.Digest, m *image.Manifest) {
	k.change, k.done, k.begun = sync.NewCond(&k.mu), make(chan made, 1), true
	unpack := k.lines.one("unpack")
	for _, l := range m.Layers {
		unpack.want(l.Size)
		if k.s.HasBlob(l.Digest, l.Size) {
			k.arrived = append(k.arrived, l.Digest)
		}
	}
	go func() {
		o := building(k.policy, func(_ image.Digest, n int64) { unpack.add(n) })
		o.Wait = k.wait
		r, err := build.Root(k.s, manifest, o)
		if err != nil {
			k.stop()
		}
		k.done <- made{r, err}
	}()
}

// arrive says that the store has a blob.
func (k *making) arrive(d image.Digest) {
	if !k.begun {
		return // the configuration
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.arrived = append(k.arrived, d)
	k.change.Broadcast()
}

func (k *making) wait(d image.Digest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !slices.Contains(k.arrived, d) {
		if k.failed != nil {
			return k.failed
		}
		k.change.Wait()
	}
	return nil
}

// end waits for the root. pulled is how the pull ended; when that was with an error, the making ends at the next layer.
func (k *making) end(pulled error) (*image.Record, error) {
	if !k.begun {
		return nil, nil
	}
	if pulled != nil {
		k.mu.Lock()
		k.failed = errNotFetched
		k.change.Broadcast()
		k.mu.Unlock()
	}
	m := <-k.done
	return m.record, m.err
}
