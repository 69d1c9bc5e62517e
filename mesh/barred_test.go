package mesh

import (
	"crypto/ed25519"
	"testing"

	"github.com/hashicorp/memberlist"
)

// Serf's word brings nobody back who is barred, whatever process of his it is about.
func TestBarredInGossip(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	m := &Mesh{
		barred: map[ID]struct{}{}, peers: map[ID]*peer{}, prunes: make(chan string, 64),
		nodes: map[string]gossipNode{},
	}
	id := IDOf(key.Public().(ed25519.PublicKey))
	filter := aliveFilter{m}
	alive := &memberlist.Node{Name: nodeName(id, 7)}
	if err := filter.NotifyAlive(alive); err != nil || m.peer(id) == nil {
		t.Errorf("before: %v", err)
	}
	m.nodes[alive.Name] = gossipNode{id, 7, gossipAlive}
	m.Bar(id)
	if err := filter.NotifyAlive(alive); err == nil || m.peer(id) != nil {
		t.Errorf("after: %v", err)
	}
	if err := filter.NotifyAlive(&memberlist.Node{Name: nodeName(id, 8)}); err == nil {
		t.Error("another process of his is let in")
	}
	select {
	case name := <-m.prunes:
		if name != alive.Name {
			t.Errorf("serf is to forget %s", name)
		}
	default:
		t.Error("serf is not told to forget him")
	}
}
