package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Golden data: the parts of a delta of format 1, one a line in hex, and what a store shows of
// them. A later version must read the same from them. UPDATE=state writes the latter anew,
// UPDATE=format both, which is right only as long as no release has written the format.
const (
	goldenDelta = "testdata/format1.delta"
	goldenState = "testdata/format1.state"
)

func TestGolden(t *testing.T) {
	wall := &fakeClock{at: wallStart.AddDate(0, 1, 0)}
	if os.Getenv("UPDATE") == "format" {
		check(t, os.MkdirAll("testdata", 0o777))
		var b bytes.Buffer
		for _, p := range parts(t, storeState{goldenHistory(t)}, nil) {
			fmt.Fprintln(&b, hex.EncodeToString(p))
		}
		check(t, os.WriteFile(goldenDelta, b.Bytes(), 0o666))
	}
	s := open(t, Config{Node: testNode(9), Now: wall.now})
	f, err := os.Open(goldenDelta)
	check(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 3*maxPart)
	for lines.Scan() {
		p, err := hex.DecodeString(lines.Text())
		check(t, err)
		behind, err := s.Merge(p)
		check(t, err)
		if behind {
			t.Error("behind after a whole delta")
		}
	}
	check(t, lines.Err())
	sound(t, s)
	got := goldenText(t, s)
	if os.Getenv("UPDATE") != "" {
		check(t, os.WriteFile(goldenState, []byte(got), 0o666))
	}
	want, err := os.ReadFile(goldenState)
	check(t, err)
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	other := open(t, Config{Node: testNode(8), Now: wall.now})
	pull(t, storeState{other}, storeState{s})
	same(t, s, other) // and passes it on as it came
}

// goldenHistory is a store with one of everything.
func goldenHistory(t *testing.T) *Store {
	ctx := context.Background()
	wall := &fakeClock{at: wallStart}
	ahead := func() time.Time { return wall.now().AddDate(20, 0, 0) }
	a, b := open(t, Config{Node: testNode(0), Now: wall.now}), open(t, Config{Node: testNode(1), Now: wall.now})
	fast := open(t, Config{Node: testNode(2), Now: ahead})
	withPool(t, a, "100.64.0.0/10")
	for i, name := range []string{"phone", "laptop", "camera", "gone", "old"} {
		wall.move(time.Second)
		add(t, a, name, testKey(i))
	}
	check(t, a.PutGateway(ctx, Gateway{Node: testNode(0), Name: "berlin", Public: "vpn.example.org:51820", Capacity: 500, Started: wallStart}))
	signer := testSigner(0)
	check(t, a.Admit(ctx, Admission{
		Key: signer.Public().(ed25519.PublicKey), Name: "berlin", Sponsor: testNode(0), At: wallStart,
		Statement: SignAdmission(signer, [16]byte{1}, signer.Public().(ed25519.PublicKey), wallStart),
	}))
	converge(t, a, b, fast)
	wall.move(time.Minute)
	check(t, a.RenameDevice(ctx, testKey(0), "left"))
	check(t, b.RenameDevice(ctx, testKey(0), "right"))
	check(t, a.EnableDevice(ctx, testKey(1), false))
	check(t, b.SetPresharedKey(ctx, testKey(2), Key{1, 2, 3}))
	check(t, a.RemoveDevice(ctx, testKey(3)))
	_, err := b.RekeyDevice(ctx, testKey(4), testKey(5))
	check(t, err)
	check(t, fast.SetSettings(ctx, map[string][]byte{"max-instances": []byte("3"), "note": []byte("from afar")}))
	id := mint(t, a, 3)
	a.ConfirmTokens()
	check(t, spend(a, id, 7))
	check(t, a.RevokeToken(ctx, id))
	check(t, b.update(ctx, func(tx *tx) error { return tx.put(refOf("hologram", []byte("x")), "shade", []byte("blue")) }))
	converge(t, a, b, fast)
	wall.move(time.Minute)
	check(t, a.EnableDevice(ctx, testKey(1), true))
	check(t, b.EnableDevice(ctx, testKey(2), false))
	check(t, b.SetSettings(ctx, map[string][]byte{"note": []byte("from here")}))
	converge(t, a, b)
	return a
}

// goldenText is what a store shows.
func goldenText(t *testing.T, s *Store) string {
	var b strings.Builder
	for d, err := range s.Devices() {
		check(t, err)
		fmt.Fprintf(&b, "device %s %s %v psk %x enabled %v created %s\n",
			d.Name, KeyString(d.Key), d.Addresses, d.PresharedKey, d.Enabled, d.Created.Format(time.RFC3339))
	}
	for _, name := range []string{"pool", "ula", "note", "max-instances"} {
		v, ok, err := s.Setting(name)
		check(t, err)
		fmt.Fprintf(&b, "setting %s %q %v\n", name, v, ok)
	}
	gs, err := s.Gateways()
	check(t, err)
	as, err := s.Admissions()
	check(t, err)
	ts, err := s.Tokens()
	check(t, err)
	cs, err := s.Conflicts()
	check(t, err)
	for _, g := range gs {
		fmt.Fprintf(&b, "gateway %s %s public %s capacity %d started %s\n", g.Node, g.Name, g.Public, g.Capacity, g.Started.Format(time.RFC3339))
	}
	for _, a := range as {
		_, _, _, err := VerifyAdmission(a.Statement, [16]byte{1})
		fmt.Fprintf(&b, "admission %s %s by %s at %s, statement %v\n", NodeOf(a.Key), a.Name, a.Sponsor, a.At.Format(time.RFC3339), err)
	}
	for _, k := range ts {
		fmt.Fprintf(&b, "token %s of %s for %s, %q, %d of %d spent by %v, expires %s, revoked %v\n",
			k.ID, k.Issuer, k.Purpose, k.Note, k.Spent, k.Uses, k.UsedBy, k.Expires.Format(time.RFC3339), k.Revoked)
	}
	for _, c := range cs {
		fmt.Fprintf(&b, "conflict %s %s %v %s %s: %q by %s, not %q by %s\n",
			c.ID, c.Reason, c.Ref, c.Name, c.Field, c.Stands.Text, c.Stands.Node, c.Other.Text, c.Other.Node)
	}
	check(t, s.eachEntity("hologram", func(id []byte, e *entity) error {
		fmt.Fprintf(&b, "hologram %s %s\n", id, e.value("shade"))
		return nil
	}))
	fmt.Fprintf(&b, "print %x\n", s.print)
	return b.String()
}
