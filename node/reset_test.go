package node

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// lay makes the files of a data directory.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func holds(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, want := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if got := strings.TrimSpace(string(b)); got != want || (err != nil) != (want == "") {
			t.Errorf("%s holds %q, want %q; %v", name, got, want, err)
		}
	}
}

// A gateway that begins anew keeps what it was, however often that was cut short before; and what it was comes back.
func TestResetIsCutShort(t *testing.T) {
	seed := strings.Repeat("ab", 32)
	old := map[string]string{
		"node.key": "old", "store/1": "a", "flags.json": "{}", "claim-code": "code", "restored": "then",
	}
	away := resetNote{Saved: "before", Seed: seed, Token: "gmt1-x"}
	is := map[string]string{
		"node.key": seed, "store/1": "", "flags.json": "{}", "claim-code": "", "restored": "",
		"joining.json": `{"token":"gmt1-x"}`,
		"on-trial":     "before", "claimed": "before", "reset.json": "",
		"before/node.key": "old", "before/store/1": "a", "before/flags.json": "{}", "before/claim-code": "code",
		"before/restored": "then",
	}
	// What a crash may have left, each with what lies there beside or in place of the old files; "" is a file that is
	// gone.
	for what, change := range map[string]map[string]string{
		"nothing":              {},
		"the key saved":        {"before/node.key": "old"},
		"the store moved":      {"before/node.key": "old", "before/store/1": "a", "store/1": ""},
		"a new store was open": {"before/node.key": "old", "before/store/1": "a", "store/1": "", "store/2": "new"},
		"files moved": {
			"before/node.key": "old", "before/store/1": "a", "store/1": "", "before/claim-code": "code",
			"claim-code": "",
		},
		"all but the note": {
			"before/node.key": "old", "before/store/1": "a", "store/1": "", "before/claim-code": "code", "claim-code": "",
			"before/restored": "then",
			"restored":        "", "before/flags.json": "{}", "joining.json": "{}", "node.key": seed,
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			lay(t, dir, old)
			lay(t, dir, change)
			for name, text := range change {
				if text == "" {
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			lay(t, dir, map[string]string{resetFile: "{}"})
			if err := finishReset(dir, away); err != nil {
				t.Fatal(err)
			}
			holds(t, dir, is)
			if _, err := os.Stat(filepath.Join(dir, "store/2")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a store that came in between is kept")
			}
			if st, err := os.Stat(filepath.Join(dir, "before")); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("%v, %v", st.Mode(), err)
			}

			for range 2 { // the second time as after a crash
				lay(t, dir, map[string]string{"store/3": "of a join that came to nothing", resetFile: "{}"})
				if err := finishReset(dir, resetNote{Saved: "before", Back: true}); err != nil {
					t.Fatal(err)
				}
				want := map[string]string{
					"joining.json": "", "on-trial": "", "claimed": "", "reset.json": "",
					"before/node.key": "",
				}
				for name, text := range old {
					want[name] = text
				}
				holds(t, dir, want)
			}
		})
	}
}

func TestResetNotes(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"saved":"before"}`: true, `{}`: false, `{"saved":"../etc"}`: false, `{"saved":"/etc"}`: false, `x`: false,
	} {
		dir := t.TempDir()
		lay(t, dir, map[string]string{resetFile: text})
		if _, due, err := readReset(dir); !due || (err == nil) != ok {
			t.Errorf("%s: %v, %v", text, due, err)
		}
	}
	dir := t.TempDir()
	lay(t, dir, map[string]string{"node.key": "old"})
	if err := finishReset(dir, resetNote{Saved: "before", Seed: "short"}); err == nil {
		t.Error("without a key")
	}
	holds(t, dir, map[string]string{"node.key": "old"})
	seed, key := newSeed()
	if b, err := hex.DecodeString(seed); err != nil || string(b) != string(key.Seed()) {
		t.Errorf("%x, %v", b, err)
	}
}

// There is one note: a second one does not take its place, and no earlier copy is in its way.
func TestResetNotesExcludeEachOther(t *testing.T) {
	dir := t.TempDir()
	store, err := cluster.Open(cluster.Config{Node: cluster.Node{1}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	n := &Node{cfg: Config{Data: dir}, store: store}
	lay(t, dir, map[string]string{"before/store/1": "of a reset in the same second"})
	saved, err := n.noteReset(resetNote{Saved: "before", Seed: "first"}, nil)
	if err != nil || saved != filepath.Join(dir, "before-2") {
		t.Errorf("%s, %v", saved, err)
	}
	if store.Refusal() == nil {
		t.Error("changes are taken on")
	}
	var busy *api.Error
	if _, err := n.noteReset(resetNote{Saved: "before", Seed: "second"}, nil); !errors.As(err, &busy) ||
		busy.Code != api.Unavailable {
		t.Errorf("a second note: %v", err)
	}
	if r, due, err := readReset(dir); err != nil || !due || r.Seed != "first" || r.Saved != "before-2" {
		t.Errorf("%+v, %v, %v", r, due, err)
	}
	// What another process has left is not overwritten either, and then changes are taken on.
	m := &Node{cfg: Config{Data: dir}, store: store}
	store.Unseal(leaving)
	if _, err := m.noteReset(resetNote{Saved: "other", Seed: "third"}, nil); err == nil || m.resets.Load() ||
		store.Refusal() != nil {
		t.Errorf("over a note: %v, %v", err, store.Refusal())
	}
}

// What others say of a gateway's eviction meanwhile does not open a store whose reset is noted.
func TestResetWhileEvicted(t *testing.T) {
	store, err := cluster.Open(cluster.Config{Node: cluster.Node{1}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var stop atomic.Bool
	var g sync.WaitGroup
	g.Go(func() {
		for !stop.Load() {
			store.Seal(expelled)
		}
	})
	defer func() { stop.Store(true); g.Wait() }()
	for range 100 {
		n := &Node{cfg: Config{Data: t.TempDir()}, store: store}
		if _, err := n.noteReset(resetNote{Saved: "before"}, nil); err != nil {
			t.Fatal(err)
		}
		store.Unseal(expelled)
		if err := store.Refusal(); err != error(leaving) { //nolint:errorlint // it is not wrapped
			t.Fatalf("a noted reset has changes refused with %v", err)
		}
		store.Unseal(leaving)
	}
}
