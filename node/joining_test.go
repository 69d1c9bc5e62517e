package node

import (
	"errors"
	"slices"
	"testing"
)

func testNode(t *testing.T, dir string, change func(*Config)) *Node {
	t.Helper()
	cfg := Config{Data: dir}
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// A gateway that was stopped while it joined goes on with that, without flags.
func TestUnfinishedJoin(t *testing.T) {
	dir := t.TempDir()
	key, other := NewClusterKey(), NewClusterKey()
	n := testNode(t, dir, func(c *Config) { c.Key, c.Join = &key, "192.0.2.1:7946" })
	if err := n.noteJoining(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	n = testNode(t, dir, nil)
	if err := n.resumeJoining(); err != nil || n.cfg.Key == nil || *n.cfg.Key != key || n.cfg.Join != "192.0.2.1:7946" {
		t.Fatalf("resumed with key %v at %q, %v", n.cfg.Key, n.cfg.Join, err)
	}
	// Nothing of that cluster has come yet, so another may be joined.
	n.cfg.Key, n.cfg.Join = &other, ""
	if err := n.resumeJoining(); err != nil || n.cfg.Join != "" {
		t.Fatalf("another cluster over an empty store: %q, %v", n.cfg.Join, err)
	}
	if err := n.endJoining(); err != nil {
		t.Fatal(err)
	}
	n.cfg.Key, n.cfg.Join = nil, ""
	if err := n.resumeJoining(); err != nil || n.cfg.Key != nil {
		t.Fatalf("a finished join goes on: %v, %v", n.cfg.Key, err)
	}
	n.cfg.Join = "192.0.2.1"
	var hint *HintError
	if err := n.resumeJoining(); !errors.As(err, &hint) {
		t.Fatalf("a join without a key: %v", err)
	}
}

// Over the remains of one cluster neither another is joined nor a new one
// begun.
func TestRemainsOfAJoin(t *testing.T) {
	key, other := NewClusterKey(), NewClusterKey()
	n := testNode(t, t.TempDir(), func(c *Config) { c.Key = &key })
	ctx := t.Context()
	done := make(chan error, 1)
	go func() { done <- n.store.Run(ctx) }()
	if err := n.noteJoining(); err != nil {
		t.Fatal(err)
	}
	if err := n.store.SetSettings(ctx, map[string][]byte{setCluster: make([]byte, 16)}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.begin(ctx); !errors.Is(err, errForeign) {
		t.Errorf("a cluster was begun over another's remains: %v", err)
	}
	n.cfg.Key = &other
	if err := n.resumeJoining(); !errors.Is(err, errForeign) {
		t.Errorf("another cluster is joined over the first one's remains: %v", err)
	}
	// A token names its cluster; the note does once something has come.
	n.cfg.Key = &key
	one, two := slices.Repeat([]byte{1}, 16), slices.Repeat([]byte{2}, 16)
	if err := n.noteCluster(one); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   []byte
		want error
	}{{one, nil}, {two, errForeign}} {
		n.cfg.Token, n.remains = &JoinToken{joinClaims: joinClaims{Cluster: c.id}}, ""
		if err := n.resumeJoining(); !errors.Is(err, c.want) {
			t.Errorf("a token of cluster %x: %v", c.id, err)
		}
		if err := n.ofRemains(n.remains, c.id); !errors.Is(err, c.want) {
			t.Errorf("welcomed by cluster %x: %v", c.id, err)
		}
	}
	if err := n.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
