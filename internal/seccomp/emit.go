package seccomp

// emitter writes a program from its end to its beginning: code is in reverse order. Every jump goes forward, so by
// the time a jump is written its target has been, and its distance is known. Conditional jumps reach 255
// instructions; what lies farther is reached over an unconditional jump, or, for a verdict, by writing it again nearby.
type emitter struct {
	code        []Instruction
	rets        map[Action]int // where each verdict was written last
	blocks      []*block
	blockAt     []int // entry of each block's code, -1 before it is written
	blockLittle bool
}

// push adds an instruction in front and gives its place, counted from the end.
func (e *emitter) push(in Instruction) int {
	e.code = append(e.code, in)
	return len(e.code) - 1
}

func (e *emitter) full() bool { return len(e.code) > MaxInstructions }

// reach is how far a target may lie from the next instruction, with room for the trampolines of that instruction.
const reach = 255 - 4

func (e *emitter) far(at int) bool { return len(e.code)-at-1 > reach }

// ret gives a place that returns the verdict.
func (e *emitter) ret(a Action) int {
	if at, ok := e.rets[a]; ok && !e.far(at) {
		return at
	}
	if e.rets == nil {
		e.rets = map[Action]int{}
	}
	at := e.push(Instruction{Code: opRet, K: uint32(a)})
	e.rets[a] = at
	return at
}

// near gives a place close by that leads to the target.
func (e *emitter) near(at int) int {
	if !e.far(at) {
		return at
	}
	if in := e.code[at]; in.Code == opRet {
		return e.ret(Action(in.K))
	}
	return e.push(Instruction{Code: opJump, K: uint32(len(e.code) - at - 1)})
}

// jump writes a conditional jump and gives its place.
func (e *emitter) jump(code uint16, k uint32, yes, no int) int {
	yes = e.near(yes)
	no = e.near(no)
	n := len(e.code)
	return e.push(Instruction{Code: code, Jt: uint8(n - yes - 1), Jf: uint8(n - no - 1), K: k})
}

// tree writes the search for a number over sorted spans and gives its entry. The number is in A.
func (e *emitter) tree(spans []span) int {
	if e.full() {
		return 0
	}
	switch {
	case len(spans) == 1:
		return e.span(spans[0])
	case len(spans) == 3 && single(spans) && same(spans[0], spans[2]):
		around := e.span(spans[0])
		return e.jump(opJeq, spans[1].start, e.span(spans[1]), around)
	}
	cut := balance(spans)
	right := e.tree(spans[cut:])
	left := e.tree(spans[:cut])
	return e.jump(opJge, spans[cut].start, right, left)
}

// single reports whether the middle one of three spans is one number.
func single(s []span) bool { return s[2].start == s[1].start+1 }

func same(a, b span) bool { return a.block == b.block && (a.block >= 0 || a.leaf == b.leaf) }

// balance gives the cut that leaves about the same weight on both sides.
func balance(spans []span) int {
	total := 0
	for i := range spans {
		total += spans[i].weight
	}
	left := 0
	for i := range spans[:len(spans)-1] {
		w := spans[i].weight
		if 2*(left+w) >= total {
			// Cutting before or after span i: whichever is nearer to the middle.
			if i > 0 && total-2*left < 2*(left+w)-total {
				return i
			}
			return i + 1
		}
		left += w
	}
	return len(spans) - 1
}

// span gives the code of one decision.
func (e *emitter) span(s span) int {
	if s.block < 0 {
		return e.ret(s.leaf)
	}
	if at := e.blockAt[s.block]; at >= 0 && (!e.far(at) || len(e.blocks[s.block].tests) > 4) {
		return at
	}
	at := e.block(e.blocks[s.block])
	e.blockAt[s.block] = at
	return at
}

// block writes the tests of a block. Each has two entries: one that loads its word, and one behind the load, for
// ways on which the word is in A already.
func (e *emitter) block(b *block) int {
	type entries struct{ load, test int }
	at := make([]entries, len(b.tests))
	loads := make([]bool, len(b.tests))
	if b.entry >= 0 {
		loads[b.entry] = true
	}
	kept := func(from *test, to target) bool {
		return from.and == ^uint32(0) && b.tests[to].word == from.word
	}
	for i := range b.tests {
		for _, to := range [...]target{b.tests[i].t, b.tests[i].f} {
			if to >= 0 && !kept(&b.tests[i], to) {
				loads[to] = true
			}
		}
	}
	place := func(from *test, to target) int {
		switch {
		case to < 0:
			return e.ret(b.leaves[^to])
		case kept(from, to):
			return at[to].test
		}
		return at[to].load
	}
	for i := range b.tests {
		t := &b.tests[i]
		yes := e.near(place(t, t.t))
		no := place(t, t.f)
		here := e.jump(t.code, t.k, yes, no)
		if t.and != ^uint32(0) {
			here = e.push(Instruction{Code: opAnd, K: t.and})
		}
		at[i] = entries{here, here}
		if loads[i] {
			at[i].load = e.push(Instruction{Code: opLoad, K: wordOffset(t.word, e.blockLittle)})
		}
	}
	return at[b.entry].load
}

// wordOffset gives the byte in seccomp_data of half an argument.
func wordOffset(word uint8, little bool) uint32 {
	off := offArgs + 8*uint32(word/2)
	if (word%2 == 1) == little {
		off += 4
	}
	return off
}
