package seccomp

// A block decides a call that has conditional rules. It is a graph of tests of single 32-bit words, since that is
// all a classic BPF instruction can look at, with two ways out of each test.

// target is where a test leads: a test's index, or below zero the complement of an index into block.leaves.
type target int32

// test compares one word of an argument.
type test struct {
	word uint8  // argument*2, +1 for its high half
	code uint16 // opJeq, opJgt, opJge or opJset
	k    uint32
	and  uint32 // applied to the word before the comparison; all ones: nothing
	t, f target
}

// block is the decision for one list of rules. Every test leads to tests of lower index, or to leaves.
type block struct {
	tests  []test
	leaves []Action
	entry  target
}

// maxTests bounds one block before simplification; more could not fit a program unless most were redundant.
const maxTests = MaxInstructions

// newBlock builds the decision: the first rule of the list whose conditions hold gives the verdict, otherwise def.
// nil means too many tests.
func newBlock(rules []rule, def Action, narrow bool) *block {
	b := &block{}
	next := b.leaf(def)
	for i := len(rules) - 1; i >= 0; i-- {
		yes, no := b.leaf(rules[i].action), next
		for j := len(rules[i].conds) - 1; j >= 0; j-- {
			yes = b.cond(rules[i].conds[j], yes, no, narrow)
		}
		next = yes
		if len(b.tests) > maxTests {
			return nil
		}
	}
	b.entry = next
	b.simplify()
	return b
}

func (b *block) leaf(a Action) target {
	for i, l := range b.leaves {
		if l == a {
			return ^target(i)
		}
	}
	b.leaves = append(b.leaves, a)
	return ^target(len(b.leaves) - 1)
}

// add appends a test, unless it decides nothing.
func (b *block) add(t test) target {
	if t.t == t.f {
		return t.t
	}
	b.tests = append(b.tests, t)
	return target(len(b.tests) - 1)
}

// cond appends the tests of one condition. Words are looked at from the high one down.
func (b *block) cond(c cond, yes, no target, narrow bool) target {
	lo, hi := c.arg*2, c.arg*2+1
	v, h := uint32(c.value), uint32(c.value>>32)
	eq := func(word uint8, k uint32, yes, no target) target {
		return b.add(test{word, opJeq, k, ^uint32(0), yes, no})
	}
	switch c.op {
	case cmpNE:
		yes, no = no, yes
		fallthrough
	case cmpEQ:
		t := eq(lo, v, yes, no)
		if !narrow {
			t = eq(hi, h, t, no)
		}
		return t
	case cmpMasked:
		t := b.masked(lo, uint32(c.mask), v, yes, no)
		if !narrow {
			t = b.masked(hi, uint32(c.mask>>32), h, t, no)
		}
		return t
	case cmpLT, cmpLE:
		yes, no = no, yes // not (≥), not (>)
	}
	code := uint16(opJge)
	if c.op == cmpGT || c.op == cmpLE {
		code = opJgt
	}
	if code == opJge && (c.value == 0 || narrow && v == 0) {
		return yes
	}
	t := b.order(lo, code, v, yes, no)
	if narrow {
		return t
	}
	t = eq(hi, h, t, no)
	return b.order(hi, opJgt, h, yes, t)
}

// order appends word > k or word >= k, or leads on at once where no word can decide it.
func (b *block) order(word uint8, code uint16, k uint32, yes, no target) target {
	switch {
	case code == opJge && k == 0:
		return yes
	case code == opJgt && k == ^uint32(0):
		return no
	}
	return b.add(test{word, code, k, ^uint32(0), yes, no})
}

// masked appends word & mask == k.
func (b *block) masked(word uint8, mask, k uint32, yes, no target) target {
	switch {
	case mask == 0:
		return yes // k has no bit outside the mask
	case mask == ^uint32(0):
		return b.add(test{word, opJeq, k, mask, yes, no})
	case k == 0:
		return b.add(test{word, opJset, mask, ^uint32(0), no, yes})
	case mask&(mask-1) == 0:
		return b.add(test{word, opJset, mask, ^uint32(0), yes, no})
	}
	return b.add(test{word, opJeq, k, mask, yes, no})
}

// fact is the known outcome of a test.
type fact struct {
	test
	holds bool
}

// maxFacts bounds what is remembered on one way; forgetting is safe, only less is simplified.
const maxFacts = 24

// simplify leads each way past the tests it has already answered, and drops tests no way reaches. It is what lets ten
// rules on one argument look at the argument's high word once.
func (b *block) simplify() {
	b.entry = b.skip(b.entry, nil)
	known := make([][]fact, len(b.tests)) // on every way into the test
	reached := make([]bool, len(b.tests))
	if b.entry >= 0 {
		reached[b.entry] = true
	}
	for i := len(b.tests) - 1; i >= 0; i-- {
		if !reached[i] {
			continue
		}
		t := &b.tests[i]
		for _, way := range [...]struct {
			to    *target
			holds bool
		}{{&t.t, true}, {&t.f, false}} {
			facts := known[i]
			if len(facts) < maxFacts {
				facts = append(facts[:len(facts):len(facts)], fact{*t, way.holds})
			}
			to := b.skip(*way.to, facts)
			*way.to = to
			if to < 0 {
				continue
			}
			if reached[to] {
				known[to] = common(known[to], facts)
			} else {
				reached[to], known[to] = true, facts
			}
		}
	}
	b.compact(reached)
}

// skip follows tests whose outcome the facts give.
func (b *block) skip(to target, facts []fact) target {
	for to >= 0 {
		holds, sure := implied(&b.tests[to], facts)
		switch {
		case !sure:
			return to
		case holds:
			to = b.tests[to].t
		default:
			to = b.tests[to].f
		}
	}
	return to
}

// implied says what the facts say of a test.
func implied(t *test, facts []fact) (holds, sure bool) {
	low, high := uint32(0), ^uint32(0)
	for i := range facts {
		f := &facts[i]
		if f.word != t.word {
			continue
		}
		if f.code == t.code && f.k == t.k && f.and == t.and {
			return f.holds, true
		}
		if f.and != ^uint32(0) {
			continue
		}
		switch {
		case f.code == opJeq && f.holds:
			return t.outcome(f.k), true
		case f.code == opJge && f.holds:
			low = max(low, f.k)
		case f.code == opJgt && f.holds:
			low = max(low, f.k+1)
		case f.code == opJge:
			high = min(high, f.k-1)
		case f.code == opJgt:
			high = min(high, f.k)
		}
	}
	if t.and != ^uint32(0) {
		return false, false
	}
	switch t.code {
	case opJeq:
		if low == high {
			return t.k == low, true
		}
		return false, t.k < low || t.k > high
	case opJge:
		return low >= t.k, low >= t.k || high < t.k
	case opJgt:
		return low > t.k, low > t.k || high <= t.k
	}
	return false, false
}

// outcome applies the test to a word.
func (t *test) outcome(w uint32) bool {
	w &= t.and
	switch t.code {
	case opJeq:
		return w == t.k
	case opJgt:
		return w > t.k
	case opJge:
		return w >= t.k
	}
	return w&t.k != 0
}

// common keeps the facts both ways have.
func common(a, b []fact) []fact {
	var out []fact
	for _, x := range a {
		for _, y := range b {
			if x.holds == y.holds && x.word == y.word && x.code == y.code && x.k == y.k && x.and == y.and {
				out = append(out, x)
				break
			}
		}
	}
	return out
}

// compact drops tests that nothing reaches, and those that lead to the same place either way.
func (b *block) compact(reached []bool) {
	moved := make([]target, len(b.tests))
	follow := func(to target) target {
		if to < 0 {
			return to
		}
		return moved[to]
	}
	n := 0
	for i, t := range b.tests {
		if !reached[i] {
			continue
		}
		t.t, t.f = follow(t.t), follow(t.f)
		if t.t == t.f {
			moved[i] = t.t
			continue
		}
		b.tests[n], moved[i] = t, target(n)
		n++
	}
	b.tests = b.tests[:n]
	b.entry = follow(b.entry)
}
