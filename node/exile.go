package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// A gateway that was evicted may not have been told by the cluster's data, of which it is sent no more. It learns it
// when members refuse it. Who says so has proven the key of a member, and is believed as long as fewer others keep a
// link: one that lies stops nobody whom the others have, and those whom it has brought along do not save an evicted
// one.

const (
	// exileFile remembers, in the data directory, that this gateway was evicted.
	exileFile = "evicted.json"
	// exilePatience is for how long no member may think otherwise before a gateway ends itself. It serves nobody
	// meanwhile.
	exilePatience = 2 * time.Second
	exileLook     = 50 * time.Millisecond
	// exileMemory is for how long a refusal counts. Who refuses us is dialled more often.
	exileMemory = time.Minute
)

// joinAgain is what to do with a gateway that was evicted.
const joinAgain = "its key is never admitted again: to have this machine back, start it with an empty --data directory " +
	"and a new key or token"

// expelled is what changes are refused with from when this gateway believes that it was evicted: nobody takes them.
var expelled = &cluster.SealedError{
	Reason: "this gateway was evicted from its cluster: it takes no changes any more",
	Advice: "make the change at another gateway",
}

// exile is what others say of this gateway's membership.
type exile struct {
	wake   chan struct{} // capacity 1
	silent atomic.Bool   // nothing leaves for devices, and none are taken over

	mu   sync.Mutex                  // guards said
	said map[cluster.Node]exileVoice // members that refuse us since they were last linked
}

// exileVoice is one member that refuses us.
type exileVoice struct {
	final bool // as evicted, not until we are admitted again
	at    time.Time
}

func newExile() *exile {
	return &exile{wake: make(chan struct{}, 1), said: map[cluster.Node]exileVoice{}}
}

// judge says whether we are to be silent, and whether that is for good: more refuse us than have us.
func judge(said map[cluster.Node]exileVoice, linked []cluster.Node, now time.Time) (silent, final bool) {
	against := 0
	for _, v := range said {
		if now.Sub(v.at) < exileMemory {
			against++
			final = final || v.final
		}
	}
	silent = against > len(linked)
	return silent, silent && final
}

// onExile takes in an event of the mesh. It does not block.
func (n *Node) onExile(p *parts, e mesh.Event) {
	id := cluster.Node(e.Member.ID)
	p.exile.mu.Lock()
	switch e.Kind {
	case mesh.Shunned:
		v, known := p.exile.said[id]
		p.exile.said[id] = exileVoice{v.final || e.Final, time.Now()}
		if !known {
			n.log.Warn("a member refuses this gateway", "member", id, "evicted", e.Final)
		}
	case mesh.Up:
		delete(p.exile.said, id)
	default:
	}
	p.exile.mu.Unlock()
	n.weighExile(p)
	poke(p.exile.wake)
}

// weighExile decides anew whether this gateway is silent. final says that it is for good.
func (n *Node) weighExile(p *parts) (final bool) {
	members := p.mesh.Members()
	p.exile.mu.Lock()
	defer p.exile.mu.Unlock()
	n.hushStrangers(p.exile.said)
	var linked []cluster.Node
	for _, m := range members {
		if _, refuses := p.exile.said[cluster.Node(m.ID)]; m.Linked && !refuses {
			linked = append(linked, cluster.Node(m.ID))
		}
	}
	silent, final := judge(p.exile.said, linked, time.Now())
	if a, stands, err := n.store.Admitted(n.self); err == nil && !stands && a.Key != nil {
		silent = true
	}
	if _, evicted, err := n.store.Evicted(n.self); err == nil && evicted {
		silent, final = true, true
	}
	if silent && final {
		n.store.Seal(expelled)
	} else {
		n.store.Unseal(expelled)
	}
	if was := p.exile.silent.Swap(silent); was != silent {
		n.log.Warn("membership in doubt", "serves", !silent)
		p.orphans.rouse()
	}
	return silent && final
}

// hushStrangers removes the voices of those who are no members any more.
func (n *Node) hushStrangers(said map[cluster.Node]exileVoice) {
	for id := range said {
		if _, member, err := n.store.Admitted(id); err == nil && !member {
			delete(said, id)
		}
	}
}

// heedExile ends the gateway when it was evicted.
func (n *Node) heedExile(ctx context.Context, p *parts) error {
	var since time.Time
	for {
		var again <-chan time.Time
		switch final := n.weighExile(p); {
		case !final:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= exilePatience:
			return n.goIntoExile(p)
		}
		if p.exile.silent.Load() {
			again = time.After(exileLook)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.exile.wake:
		case <-again:
		}
	}
}

// wireExile is the content of exileFile.
type wireExile struct {
	At time.Time `json:"at"`
	By []string  `json:"by"` // members that said so
}

// goIntoExile remembers that this gateway was evicted, and returns the error with which it ends.
func (n *Node) goIntoExile(p *parts) error {
	w := wireExile{At: n.cfg.Now().UTC().Truncate(time.Second), By: []string{}}
	names, err := n.gatewayNames()
	if err != nil {
		n.log.Error("read gateways", "err", err)
	}
	p.exile.mu.Lock()
	for id := range p.exile.said {
		w.By = append(w.By, cmp.Or(names[id], id.String()))
	}
	p.exile.mu.Unlock()
	slices.Sort(w.By)
	b, err := json.MarshalIndent(w, "", "  ")
	if err == nil {
		err = WriteFile(filepath.Join(n.cfg.Data, exileFile), append(b, '\n'))
	}
	if err != nil {
		n.log.Error("not remembered that this gateway was evicted", "err", err)
	}
	return n.exileError(w.At, w.By)
}

// maxExile bounds what is read of exileFile, in bytes.
const maxExile = 64 << 10

// exiled returns an error if this gateway was evicted, as it knows from its store or remembers.
func (n *Node) exiled() error {
	v, evicted, err := n.store.Evicted(n.self)
	if err != nil {
		return fmt.Errorf("read own eviction: %w", err)
	}
	if evicted {
		return n.exileError(v.At, nil)
	}
	b, err := os.ReadFile(filepath.Join(n.cfg.Data, exileFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read whether this gateway was evicted: %w", err)
	}
	w, err := parseExile(b)
	if err != nil {
		n.log.Warn("the note of an eviction cannot be read", "err", err)
	}
	return n.exileError(w.At, w.By)
}

func parseExile(b []byte) (w wireExile, err error) {
	if len(b) > maxExile {
		return w, errors.New("it is too long")
	}
	err = json.Unmarshal(b, &w)
	return w, err
}

func (n *Node) exileError(at time.Time, by []string) error {
	text := "this gateway was evicted from its cluster"
	if !at.IsZero() {
		text += " on " + at.Format(time.RFC3339)
	}
	hint := joinAgain
	if len(by) > 0 {
		text += fmt.Sprintf(", say %v", by)
		hint += "; if they are wrong, remove " + filepath.Join(n.cfg.Data, exileFile)
	}
	return hintf(hint, "%s", text)
}
