package seccomp

import (
	"encoding/binary"
	"slices"
)

// span is a run of numbers, up to the next span's start, with one decision.
type span struct {
	start  uint32
	leaf   Action
	block  int // index into generator.blocks; -1: leaf decides
	weight int
}

// conditionalWeight is how much nearer to the root a call with conditions is placed. Since Linux 5.11 the kernel
// remembers which numbers are allowed whatever the arguments and does not run the filter for them (commit
// 8e01b51a31a1), so the filter's cost is that of calls it has to look into.
const conditionalWeight = 8

// generator holds what is shared between the architectures of one filter.
type generator struct {
	rules  []rule
	def    Action
	blocks []*block
	keys   map[string]int
	emit   emitter
	tooBig bool
}

// generate writes the program: the architecture, then for each of them a search tree over numbers.
func generate(r *resolved, as []*arch, def Action) ([]Instruction, error) {
	g := &generator{rules: r.rules, def: def, keys: map[string]int{}}
	type tree struct {
		audit uint32
		spans []span
	}
	var trees []tree
	for i, a := range as {
		if slices.ContainsFunc(trees, func(t tree) bool { return t.audit == a.audit }) {
			continue // x32, taken along with x86_64 below
		}
		x32 := -1
		if a.column == colX86_64 {
			x32 = slices.IndexFunc(as, func(b *arch) bool { return b.column == colX32 })
		}
		trees = append(trees, tree{a.audit, g.spans(r, as, i, x32)})
	}
	if g.tooBig {
		return nil, &TooLongError{maxTests}
	}
	// From the end to the beginning: see emitter.
	g.emit.blocks = g.blocks
	g.emit.blockAt = make([]int, len(g.blocks))
	for i := range g.emit.blockAt {
		g.emit.blockAt[i] = -1
	}
	g.emit.blockLittle = littleEndian(as[0].audit)
	heads := make([]int, len(trees))
	for i := len(trees) - 1; i >= 0; i-- {
		top := g.emit.tree(trees[i].spans)
		if top != len(g.emit.code)-1 { // the load below runs into what was written last
			g.emit.push(Instruction{Code: opJump, K: uint32(len(g.emit.code) - top - 1)})
		}
		heads[i] = g.emit.push(Instruction{Code: opLoad, K: offNr})
		if g.emit.full() {
			return nil, &TooLongError{len(g.emit.code)}
		}
	}
	next := g.emit.ret(KillProcess)
	for i := len(trees) - 1; i >= 0; i-- {
		next = g.emit.jump(opJeq, trees[i].audit, heads[i], next)
	}
	g.emit.push(Instruction{Code: opLoad, K: offArch})
	if n := len(g.emit.code); n > MaxInstructions {
		return nil, &TooLongError{n}
	}
	slices.Reverse(g.emit.code)
	return g.emit.code, nil
}

// spans turns the calls of one architecture, and of x32 beside x86_64, into spans over all 2^32 numbers.
func (g *generator) spans(r *resolved, as []*arch, i, x32 int) []span {
	out := g.numbers(nil, 0, r.calls[i], r.largest[i], as[i])
	if as[i].column != colX86_64 {
		return out
	}
	if x32 >= 0 {
		return g.numbers(out, x32Bit, r.calls[x32], r.largest[x32], as[x32])
	}
	// An x32 number is a foreign architecture's. 0xffffffff has the bit and is no x32 call: it is the number of a call
	// that a tracer took away.
	last := out[len(out)-1].leaf
	out = appendSpan(out, span{start: x32Bit, leaf: KillProcess, block: -1})
	return appendSpan(out, span{start: ^uint32(0), leaf: last, block: -1})
}

// numbers appends the spans of one number space that begins at base.
func (g *generator) numbers(out []span, base uint32, calls []uint64, largest int64, a *arch) []span {
	def := span{start: base, leaf: g.def, block: -1}
	out = appendSpan(out, def)
	enosys := Errno | Action(enosysOf(a))
	for len(calls) > 0 {
		n := sameCall(calls)
		nr := uint32(calls[0] >> 32)
		s := g.decide(calls[:n], a.narrow)
		s.start = nr
		out = appendSpan(out, s)
		calls = calls[n:]
		if len(calls) == 0 || uint32(calls[0]>>32) != nr+1 {
			def.start = nr + 1
			out = appendSpan(out, def)
		}
	}
	if g.def.permissive() || largest < 0 {
		return out
	}
	if a.column == colS390X && out[0].block < 0 && out[0].leaf == g.def {
		// setup(2), number 0, stands for every call whose number is too large for the instruction (as in runc).
		if len(out) == 1 || out[1].start > 1 {
			out = slices.Insert(out, 1, span{start: 1, leaf: g.def, block: -1, weight: 1})
		}
		out[0].leaf = enosys
	}
	return appendSpan(out, span{start: uint32(largest) + 1, leaf: enosys, block: -1})
}

// appendSpan adds a span, merging it with what stands before it.
func appendSpan(out []span, s span) []span {
	if n := len(out); n > 0 && out[n-1].start == s.start {
		out = out[:n-1]
	}
	if n := len(out); n > 0 && out[n-1].block == s.block && (s.block >= 0 || out[n-1].leaf == s.leaf) {
		return out
	}
	s.weight = 1
	if s.block >= 0 {
		s.weight = conditionalWeight
	}
	return append(out, s)
}

// decide combines the rules of one call: an unconditional rule stands above conditional ones, the first of several
// unconditional ones holds (both as in libseccomp); of the conditional ones that apply, the least permissive.
func (g *generator) decide(calls []uint64, narrow bool) span {
	for _, c := range calls {
		if r := &g.rules[uint32(c)]; g.always(r, narrow) {
			return span{leaf: r.action, block: -1}
		}
	}
	ids := make([]uint32, len(calls))
	for i, c := range calls {
		ids[i] = uint32(c)
	}
	slices.SortStableFunc(ids, func(a, b uint32) int {
		return compareActions(g.rules[a].action, g.rules[b].action)
	})
	key := make([]byte, 1, 1+4*len(ids))
	if narrow {
		key[0] = 1
	}
	for _, id := range ids {
		key = binary.NativeEndian.AppendUint32(key, id)
	}
	n, ok := g.keys[string(key)]
	if !ok {
		rules := make([]rule, len(ids))
		for i, id := range ids {
			rules[i] = g.rules[id]
		}
		b := newBlock(rules, g.def, narrow)
		if b == nil {
			g.tooBig = true
			return span{leaf: g.def, block: -1}
		}
		n = len(g.blocks)
		g.blocks = append(g.blocks, b)
		g.keys[string(key)] = n
	}
	if b := g.blocks[n]; b.entry < 0 {
		return span{leaf: b.leaves[^b.entry], block: -1}
	}
	return span{block: n}
}

// always reports whether a rule has no condition that could fail: none at all, or only masks of no bits, which
// libseccomp also takes for none.
func (g *generator) always(r *rule, narrow bool) bool {
	for _, c := range r.conds {
		if mask := c.mask; c.op != cmpMasked || (narrow && uint32(mask) != 0) || (!narrow && mask != 0) {
			return false
		}
	}
	return true
}
