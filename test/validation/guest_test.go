package validation

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// telling in the environment makes the test binary the program that rewrites a bundle's config.json, which a wrapper calls.
const telling = "BRIG_VALIDATION_TELL"

func TestMain(m *testing.M) {
	if os.Getenv(telling) == "" {
		m.Run() // which ends with its result
		return
	}
	if err := tell(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tell what gVisor's mounts look like:", err)
		os.Exit(1)
	}
}

// untold is the program that is run as it is. The first mount fails, and with it the program ends.
const untold = "default"

// mount is what runtimetest compares of one.
type mount = map[string]any

// tell rewrites the config.json of a bundle that was created, in which the suite has it in the container's root, too: runtimetest compares
// it with /proc/self/mountinfo, and panics when the first mount is not found. gVisor's has "none" for each source, /dev as a file
// system of its own (dev), and the mounts in the order of the length of their names, message queues last, as brig-gvisor mounts them after gVisor's own
// (gVisor's pkg/sentry/vfs/mount.go and runsc/boot/vfs.go). All else is compared as it is: that every mount is there, with its type.
func tell(create []string) error {
	i := slices.Index(create, "--bundle")
	if i < 0 || i+1 == len(create) {
		return nil
	}
	file := filepath.Join(create[i+1], "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var config map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // ids are more than a float64 holds
	if err := d.Decode(&config); err != nil {
		return err
	}
	list, _ := config["mounts"].([]any)
	queues := func(m any) int { return strings.Count(fmt.Sprint(m.(mount)["type"]), "mqueue") }
	slices.SortStableFunc(list, func(a, b any) int {
		return cmp.Or(queues(a)-queues(b), len(fmt.Sprint(a.(mount)["destination"]))-len(fmt.Sprint(b.(mount)["destination"])))
	})
	for _, m := range list {
		m := m.(mount)
		delete(m, "source")
		if m["destination"] == "/dev" {
			m["type"] = "dev"
		}
	}
	if text, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// guestScript is the wrapper with what is otherwise: each refusal is in a log, as not every program prints it, and of what create made is told.
func guestScript(script, program, log string) string {
	script = strings.Replace(script, " --root ", " --log "+log+" --root ", 1)
	if program == untold {
		return script
	}
	return strings.Replace(script, "exec ", "", 1) +
		fmt.Sprintf("r=$?\n[ $r != 0 ] || [ \"$1\" != create ] || %s=1 exec %s \"$@\"\nexit $r\n", telling, os.Args[0])
}

// guest holds what each program fails under another isolation against what it fails natively and what the isolation's list says.
func guest(t *testing.T, native *list) {
	s := newSuite(t)
	results := s.run(&s.runtimes()[0], s.programs)
	for _, r := range results {
		t.Run(r.program, func(t *testing.T) {
			said := otherwise(native, &r)
			d, listed := testenv.Differs(t)
			refused := strings.Contains(r.words, "isolation "+testenv.Isolation()+" cannot do it")
			switch {
			case said != d.What:
				t.Errorf("%s\nand testdata/%s.json says: %s\n%s", cmp.Or(said, "as natively"), testenv.Isolation(), cmp.Or(d.What, "as natively"), r.words)
			case listed && refused != (d.Outcome == "refused"):
				t.Errorf("testdata/%s.json: %s, and it said %s", testenv.Isolation(), d.Outcome, r.words)
			}
		})
	}
	sum := count(results)
	t.Logf("brig-oci under %s passes %d assertions and fails %d; %d programs", testenv.Isolation(), sum.Passed, sum.Failed, len(s.programs))
	if *update {
		native.Totals["brig-oci, "+testenv.Isolation()] = sum
		write(t, native)
	}
}

// otherwise says what a program fails that it does not fail natively, and the other way round.
func otherwise(native *list, r *result) string {
	want, got := map[string]int{}, r.all()
	for i := range native.Differences {
		d := &native.Differences[i]
		switch {
		case d.Program != r.program:
		case d.Sometimes:
			delete(got, d.Case)
		default:
			want[d.Case] = d.Times
		}
	}
	var list []string
	both := maps.Clone(want)
	maps.Copy(both, got)
	for _, name := range slices.Sorted(maps.Keys(both)) {
		switch {
		case got[name] == want[name]:
		case got[name] == 0:
			list = append(list, "passes: "+name)
		case got[name] == 1:
			list = append(list, "fails: "+name)
		default:
			list = append(list, fmt.Sprintf("fails %d times: %s", got[name], name))
		}
	}
	return strings.Join(list, "; ")
}

func TestTell(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	const before = `{"mounts":[{"destination":"/proc","source":"proc","type":"proc"},{"destination":"/q","type":"mqueue"},` +
		`{"destination":"/dev","source":"tmpfs","type":"tmpfs"}],"uid":4294967295}`
	const after = `{"mounts":[{"destination":"/dev","type":"dev"},{"destination":"/proc","type":"proc"},{"destination":"/q","type":"mqueue"}],"uid":4294967295}`
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tell([]string{"create", "--bundle", dir, "id"}); err != nil {
		t.Fatal(err)
	}
	if have, _ := os.ReadFile(file); string(have) != after {
		t.Errorf("%s\nwant\n%s", have, after)
	}
}

func TestOtherwise(t *testing.T) {
	native := &list{Differences: []difference{
		{Program: "p", Case: "both", Times: 2}, {Program: "p", Case: "natively", Times: 1}, {Program: "q", Case: "there", Times: 1},
		{Program: "p", Case: "a race", Times: 1, Sometimes: true},
	}}
	r := &result{program: "p", failed: map[string]int{"both": 2, "there": 1, "thrice": 3, "a race": 1}}
	if have := otherwise(native, r); have != "passes: natively; fails: there; fails 3 times: thrice" {
		t.Error(have)
	}
}
