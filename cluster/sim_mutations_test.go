package cluster

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var runMutations = flag.Bool("cluster.mutations", false, "have TestMutations break the code")

// mutations are the mistakes that the design argues against, each as replacements in the source.
var mutations = []struct {
	name  string
	edits []edit
}{
	{"timestamp-only ties", []edit{
		{"cell.go", "	return bytes.Compare(s.author[:], o.author[:])\n", "	return 0\n"},
		{"cell.go", "		bytes.Compare(c.raw, o.raw),\n", "		bytes.Compare(nil, nil),\n"},
	}},
	{"bounded clock without the bump", []edit{
		{"tx.go", "		c.stamp.time = max(c.stamp.time, old.stamp.time+1)\n", ""},
	}},
	{"vector moved with the first part", []edit{
		{"delta.go", "	yield func([]byte, error) bool\n", "	yield func([]byte, error) bool\n	every wirePart\n"},
		{"delta.go", "	p := &packer{", "	f, o := from.wire(0), to.wire(0)\n	p := &packer{every: wirePart{Last: true, From: &f, To: &o}, "},
		{"delta.go", "		if err := p.send(wirePart{}); err != nil {\n			return err\n		}\n	}\n	p.part,", "		if err := p.send(p.every); err != nil {\n			return err\n		}\n	}\n	p.part,"},
	}},
	{"cells beyond the sender's vector left out", []edit{
		{"delta.go", "	if err := p.collect(txn, from); err != nil {", "	if err := p.collect(txn, from, heads); err != nil {"},
		{"delta.go", "collect(txn *badger.Txn, from vector) error {", "collect(txn *badger.Txn, from vector, heads map[author]head) error {"},
		{"delta.go", "		a, n, r, field, ok := cutDot(it.Item().Key())\n		if !ok {", "		a, n, r, field, ok := cutDot(it.Item().Key())\n		if !ok || n > heads[a].seq {"},
	}},
	{"collection by time", []edit{
		{"collect.go", "	for err == nil && len(cut) > 0 {\n", "	for err == nil {\n"},
		{"collect.go", "			if m.covered(cut) {\n", "			if m.covered(cut) || m.cells[0].stamp.time+uint64(time.Minute.Milliseconds())<<16 < wallTime(s.clock.now()) {\n"},
	}},
	{"seq reused after a rollback", []edit{
		{"store.go", "	s.begin()\n", "	same := authorOf(s.node, 1)\n	s.author.Store(&same)\n"},
	}},
}

// edit replaces text that stands once in a file of this directory.
type edit struct{ file, old, new string }

// TestMutations builds this package once with each mutation and wants the simulator to find it within 10,000 seeds.
func TestMutations(t *testing.T) {
	if !*runMutations {
		t.Skip("only with -cluster.mutations")
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			out, err := mutant(t, m.edits)
			if err == nil {
				t.Fatalf("not noticed\n%s", out)
			}
			found := regexp.MustCompile(`seed \d+: .*`).FindString(out)
			if found == "" {
				t.Fatalf("no violation: %v\n%s", err, out)
			}
			t.Log(found)
		})
	}
}

// mutant builds the tests over edited files and runs the simulator in them.
func mutant(t *testing.T, edits []edit) (out string, err error) {
	t.Helper()
	dir := t.TempDir()
	here, err := os.Getwd()
	check(t, err)
	texts, replace := map[string]string{}, map[string]string{}
	for _, e := range edits {
		if texts[e.file] == "" {
			b, err := os.ReadFile(e.file)
			check(t, err)
			texts[e.file] = string(b)
		}
		if n := strings.Count(texts[e.file], e.old); n != 1 {
			t.Fatalf("%s has %d times %q: the mutation is of another version", e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(texts[e.file], e.old, e.new, 1)
		replace[filepath.Join(here, e.file)] = filepath.Join(dir, e.file)
	}
	for file, text := range texts {
		check(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	binary := filepath.Join(dir, "mutant.test")
	if b, err := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	b, err := exec.Command(binary, "-test.run", "^TestSimulator$", "-cluster.seeds", "10000").CombinedOutput()
	return string(b), err
}
