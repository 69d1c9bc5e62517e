package cluster

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestNode(t *testing.T) {
	n := NodeOf(testSigner(0).Public().(ed25519.PublicKey))
	text, err := json.Marshal(map[string]Node{"n": n})
	check(t, err)
	var back map[string]Node
	check(t, json.Unmarshal(text, &back))
	if back["n"] != n || len(n.String()) != 32 || n.IsZero() || !(Node{}).IsZero() {
		t.Errorf("%s", text)
	}
	for _, bad := range []string{"", n.String()[1:], n.String() + "0", "X" + n.String()[1:], "ABCDEF" + n.String()[6:]} {
		if _, err := ParseNode(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestParseKey(t *testing.T) {
	k := testKey(0)
	if got, err := ParseKey(KeyString(k)); err != nil || got != k {
		t.Error(got, err)
	}
	text := KeyString(k)
	bad := []string{"", "x", text[:43], text + "\n", " " + text, text[:42] + "B=", "_" + text[1:]}
	// RFC 7748, section 6.1, and its twins with the unused bit set or above the prime.
	for _, h := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000080",
	} {
		b, err := hex.DecodeString(h)
		check(t, err)
		bad = append(bad, KeyString(Key(b)))
	}
	for _, s := range bad {
		if _, err := ParseKey(s); !errors.Is(err, ErrInvalidKey) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestValidKeyIsExact compares the list of refused keys with what X25519 itself refuses.
func TestValidKeyIsExact(t *testing.T) {
	private, err := ecdh.X25519().NewPrivateKey((&[32]byte{31: 64})[:])
	check(t, err)
	refuses := func(k Key) bool {
		public, err := ecdh.X25519().NewPublicKey(k[:])
		check(t, err)
		_, err = private.ECDH(public)
		return err != nil
	}
	low := slices.Clone(lowOrder[:])
	for _, k := range lowOrder {
		for bit := range 8 {
			k[bit] ^= 1 << bit
			low = append(low, k)
			k[31] ^= 0x80
			low = append(low, k)
		}
	}
	for b := range 256 {
		near := nearPrime(byte(b))
		low = append(low, near, Key{0: byte(b)}, Key{0: byte(b), 31: 0x80})
	}
	refused := 0
	for _, k := range low {
		for range 2 {
			k[31] ^= 0x80
			want := refuses(k)
			if got := validKey(k) != nil; got != want {
				t.Errorf("%x is refused: %v, by X25519: %v", k, got, want)
			}
			if want {
				refused++
			}
		}
	}
	if refused < 2*len(lowOrder) {
		t.Errorf("%d keys were refused", refused)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(KeyString(testKey(0)))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && KeyString(k) != s {
			t.Errorf("%q was read as %q", s, KeyString(k))
		}
	})
}

func TestStatement(t *testing.T) {
	cluster := [16]byte{1}
	newcomer := testSigner(1).Public().(ed25519.PublicKey)
	at := time.UnixMilli(1_795_000_000_123).UTC()
	st := SignAdmission(testSigner(0), cluster, newcomer, at)
	n, s, when, err := VerifyAdmission(st, cluster)
	check(t, err)
	if !n.Equal(newcomer) || !s.Equal(testSigner(0).Public()) || !when.Equal(at) {
		t.Error(n, s, when)
	}
	if _, _, _, err := VerifyAdmission(st, [16]byte{2}); !errors.Is(err, ErrInvalidStatement) {
		t.Error(err)
	}
	for i := range st {
		bad := slices.Clone(st)
		bad[i] ^= 1
		if _, _, _, err := VerifyAdmission(bad, cluster); !errors.Is(err, ErrInvalidStatement) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

func FuzzVerifyAdmission(f *testing.F) {
	cluster := [16]byte{1}
	st := SignAdmission(testSigner(0), cluster, testSigner(1).Public().(ed25519.PublicKey), time.UnixMilli(1))
	f.Add(st)
	f.Add(st[:len(st)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, s, _, err := VerifyAdmission(b, cluster)
		if err == nil && (len(n) != 32 || len(s) != 32) {
			t.Error("keys of a wrong size")
		}
		if err != nil && !errors.Is(err, ErrInvalidStatement) {
			t.Error(err)
		}
	})
}

func TestAdmissions(t *testing.T) {
	ctx := context.Background()
	a, b := replica(t, 0), replica(t, 1)
	key := testSigner(1).Public().(ed25519.PublicKey)
	at := time.UnixMilli(1_795_000_000_123).UTC()
	want := Admission{Key: key, Name: "berlin", Sponsor: testNode(0), At: at, Statement: []byte("word")}
	check(t, a.Admit(ctx, want))
	check(t, a.Admit(ctx, Admission{Key: testSigner(2).Public().(ed25519.PublicKey), Name: "aachen", At: at}))
	if err := a.Admit(ctx, Admission{Key: key[1:]}); !errors.Is(err, ErrInvalidKey) {
		t.Error(err)
	}
	if err := a.Admit(ctx, Admission{Key: key, Statement: make([]byte, 5<<10)}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	pull(t, storeState{b}, storeState{a})
	got, ok, err := b.Admitted(NodeOf(key))
	if err != nil || !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v, %v", got, ok, err)
	}
	if _, ok, err := b.Admitted(testNode(7)); ok || err != nil {
		t.Error(ok, err)
	}
	all, err := b.Admissions()
	if err != nil || len(all) != 2 || all[0].Name != "aachen" {
		t.Error(all, err)
	}
	// An admission under another node's id admits nobody.
	check(t, a.update(ctx, func(tx *tx) error {
		e, err := tx.entity(admissionRef(NodeOf(key)))
		if err != nil {
			return err
		}
		return tx.put(admissionRef(testNode(7)), fieldAdmission, e.value(fieldAdmission))
	}))
	if _, ok, err := a.Admitted(testNode(7)); ok || err != nil {
		t.Error("a foreign key was admitted", err)
	}
}

func TestGateways(t *testing.T) {
	ctx := context.Background()
	a, b := replica(t, 0), replica(t, 1)
	g := Gateway{
		Node: testNode(0), Name: "berlin", Public: "vpn.example.org:51820",
		Mesh:     []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7946"), netip.MustParseAddrPort("[2001:db8::1]:7946")},
		Capacity: 1024, OS: "linux", Arch: "arm64", Hostname: "gw1", Version: "0.1.0", Started: wallStart,
	}
	check(t, a.PutGateway(ctx, g))
	before := a.Digest()
	check(t, a.PutGateway(ctx, g))
	if string(before) != string(a.Digest()) {
		t.Error("fields that stand were written again")
	}
	pull(t, storeState{b}, storeState{a})
	// Two sides change different fields: both stand.
	mine, theirs := g, g
	mine.Version = "0.2.0"
	theirs.Public = "other.example.org:1"
	check(t, a.PutGateway(ctx, mine))
	check(t, b.PutGateway(ctx, theirs))
	check(t, b.PutGateway(ctx, Gateway{Node: testNode(1), Name: "aachen"}))
	converge(t, a, b)
	same(t, a, b)
	want := mine
	want.Public = theirs.Public
	got, err := b.Gateway(g.Node)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v, %v", got, want, err)
	}
	all, err := a.Gateways()
	if err != nil || len(all) != 2 || all[0].Name != "aachen" {
		t.Error(all, err)
	}
	for _, text := range []string{"berlin", g.Node.String(), g.Node.String()[:16]} {
		if got, err := a.FindGateway(text); err != nil || got.Node != g.Node {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	var ambiguous *AmbiguousError
	if _, err := a.FindGateway(g.Node.String()[:8]); !errors.As(err, &ambiguous) || len(ambiguous.IDs) != 2 {
		t.Error(err)
	}
	for _, err := range []error{second(a.FindGateway("nobody")), second(a.Gateway(testNode(9))), a.PutGateway(ctx, Gateway{})} {
		if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
}

func TestAddresses(t *testing.T) {
	pool, ula := netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd12:3456:789a:1::/64")
	if got := GatewayAddresses(pool, ula); got[0] != addr("100.64.0.1") || got[1] != addr("fd12:3456:789a:1::1") {
		t.Error(got)
	}
	free := func(netip.Addr) bool { return false }
	seen := map[netip.Addr]bool{}
	for i := range 500 {
		k := testKey(i)
		a, err := Allocate(pool, k, free)
		check(t, err)
		b, _ := Allocate(pool, k, func(x netip.Addr) bool { return x == a })
		a6 := Address6(ula, k)
		if !pool.Contains(a) || a == b || !pool.Contains(b) || !ula.Contains(a6) || seen[a6] {
			t.Fatal(a, b, a6)
		}
		seen[a6] = true
	}
	// The addresses are part of the format: they must never change.
	if a, _ := Allocate(pool, Key{1}, free); a != addr(goldenIPv4) || Address6(ula, Key{1}) != addr(goldenIPv6) {
		t.Error(a, Address6(ula, Key{1}))
	}
	for text, ok := range map[string]bool{
		"10.0.0.0/8": true, "100.64.0.0/10": true, "192.168.1.0/29": true,
		"10.0.0.0/7": false, "192.168.1.0/30": false, "192.168.1.1/24": false, "fd00::/64": false,
		"224.0.0.0/8": false, "127.0.0.0/8": false, "169.254.0.0/16": false, "0.0.0.0/8": false, "240.0.0.0/8": false,
	} {
		var bad *PoolError
		if err := ValidatePool(netip.MustParsePrefix(text)); (err == nil) != ok || err != nil && !errors.As(err, &bad) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := ValidatePool(netip.Prefix{}); err == nil {
		t.Error("the zero prefix is no pool")
	}
}

const (
	goldenIPv4 = "100.118.189.249"
	goldenIPv6 = "fd12:3456:789a:1:73fa:49f0:c53d:dc7d"
)
