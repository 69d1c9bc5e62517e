package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gatemesh/cluster"
)

func TestJudge(t *testing.T) {
	now := time.Unix(1e9, 0)
	voice := func(final bool, ago time.Duration) exileVoice { return exileVoice{final, now.Add(-ago)} }
	for _, c := range []struct {
		name          string
		said          []exileVoice
		linked        int
		silent, final bool
	}{
		{"nobody says anything", nil, 0, false, false},
		{"alone with one who says so", []exileVoice{voice(true, 0)}, 0, true, true},
		{"one lies", []exileVoice{voice(true, 0)}, 1, false, false},
		{"two say so, one was brought along", []exileVoice{voice(true, 0), voice(true, 0)}, 1, true, true},
		{"suspended", []exileVoice{voice(false, 0), voice(false, 0)}, 1, true, false},
		{"one knows more", []exileVoice{voice(false, 0), voice(true, 0)}, 0, true, true},
		{"long ago", []exileVoice{voice(true, exileMemory)}, 0, false, false},
		{"one long ago", []exileVoice{voice(true, exileMemory), voice(false, 0)}, 0, true, false},
	} {
		said := map[cluster.Node]exileVoice{}
		for i, v := range c.said {
			said[cluster.Node{byte(i)}] = v
		}
		if silent, final := judge(said, make([]cluster.Node, c.linked), now); silent != c.silent || final != c.final {
			t.Errorf("%s: silent %v, final %v", c.name, silent, final)
		}
	}
}

func FuzzExile(f *testing.F) {
	f.Add([]byte(`{"at":"2026-01-02T03:04:05Z","by":["a"]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := parseExile(b); err == nil && len(w.By) > maxExile {
			t.Errorf("%d names", len(w.By))
		}
	})
}

// That the note cannot be read does not say that this gateway was evicted.
func TestExileUnreadable(t *testing.T) {
	store, err := cluster.Open(cluster.Config{Node: cluster.Node{1}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	n := &Node{cfg: Config{Data: t.TempDir()}, store: store, log: slog.New(slog.DiscardHandler)}
	if err := n.exiled(); err != nil {
		t.Errorf("without a note: %v", err)
	}
	if err := os.Mkdir(filepath.Join(n.cfg.Data, exileFile), 0o700); err != nil {
		t.Fatal(err)
	}
	var path *fs.PathError
	if err := n.exiled(); !errors.As(err, &path) {
		t.Errorf("%v", err)
	}
}

// Who is evicted has no say any more, be it that it spoke before.
func TestEvictedHasNoSay(t *testing.T) {
	_, key := newSeed()
	self := cluster.NodeOf(key.Public().(ed25519.PublicKey))
	store, err := cluster.Open(cluster.Config{Node: self})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var g sync.WaitGroup
	g.Go(func() { _ = store.Run(ctx) })
	defer func() { stop(); g.Wait(); store.Close() }()
	n := &Node{store: store, self: self}
	var ids []cluster.Node
	for range 3 {
		err := store.Admit(ctx, cluster.Admission{Key: key.Public().(ed25519.PublicKey), Sponsor: self, At: time.Unix(1e9, 0)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, cluster.NodeOf(key.Public().(ed25519.PublicKey)))
		_, key = newSeed()
	}
	said := map[cluster.Node]exileVoice{ids[1]: {final: true}, ids[2]: {final: true}}
	if n.hushStrangers(said); len(said) != 2 {
		t.Fatalf("%d members are heard", len(said))
	}
	if err := store.Evict(ctx, ids[2]); err != nil {
		t.Fatal(err)
	}
	if n.hushStrangers(said); len(said) != 1 || !said[ids[1]].final {
		t.Errorf("%v are heard", said)
	}
}
