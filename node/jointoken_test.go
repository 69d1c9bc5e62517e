package node

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"gatemesh/cluster"
)

func drawClaims(t *rapid.T) joinClaims {
	bytesOf := func(name string, n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name) }
	c := joinClaims{
		Cluster: bytesOf("cluster", 16), ID: bytesOf("id", 16),
		Expires: rapid.Int64Range(1, 1<<37).Draw(t, "expires"), Uses: rapid.IntRange(1, cluster.MaxUses).Draw(t, "uses"),
		Standby: rapid.Bool().Draw(t, "standby"),
		Host:    rapid.SampledFrom([]string{"", "10.0.0.0/8", "fd00::/8"}).Draw(t, "host"),
	}
	for range rapid.IntRange(1, maxTokenPlace).Draw(t, "places") {
		c.Places = append(c.Places, joinPlace{
			Node: bytesOf("node", 16),
			Addr: rapid.SampledFrom([]string{"192.0.2.1:7946", "[2001:db8::1]:7946", "vpn.example.org:1"}).Draw(t, "addr"),
		})
	}
	return c
}

// What is written is read again; a token that differs in a letter, or lacks some, is none.
func TestJoinTokenText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := NewClusterKey()
		made, err := newJoinToken(key, drawClaims(t))
		if err != nil {
			t.Fatal(err)
		}
		text := made.String()
		if rapid.Bool().Draw(t, "shout") {
			text = " " + strings.ToUpper(text) + "\n"
		}
		got, err := ParseJoinToken(text)
		if err != nil || got.String() != made.String() || got.secret != tokenSecret(key, got.encoded) ||
			!bytes.Equal(got.Key, keyName(key)) {
			t.Fatalf("%v, %+v", err, got)
		}
		text = made.String()
		if _, err := ParseJoinToken(text[:rapid.IntRange(0, len(text)-1).Draw(t, "cut")]); !errors.Is(err, ErrToken) {
			t.Fatalf("a part: %v", err)
		}
		i := rapid.IntRange(len(tokenPrefix), len(text)-1).Draw(t, "at")
		other := byte('a')
		if text[i] == other {
			other = 'b'
		}
		if _, err := ParseJoinToken(text[:i] + string(other) + text[i+1:]); !errors.Is(err, ErrToken) {
			t.Fatalf("another letter: %v", err)
		}
	})
}

func TestClaimsOutOfBounds(t *testing.T) {
	good := func() joinClaims {
		return joinClaims{
			Cluster: make([]byte, 16), ID: make([]byte, 16), Expires: time.Now().Unix(), Uses: 1,
			Places: []joinPlace{{Node: make([]byte, 16), Addr: "192.0.2.1:7946"}},
		}
	}
	if _, err := newJoinToken(ClusterKey{1}, good()); err != nil {
		t.Fatal(err)
	}
	place := func(addr string) func(*joinClaims) {
		return func(c *joinClaims) { c.Places[0].Addr = addr }
	}
	for name, spoil := range map[string]func(*joinClaims){
		"cluster":   func(c *joinClaims) { c.Cluster = c.Cluster[1:] },
		"id":        func(c *joinClaims) { c.ID = nil },
		"no expiry": func(c *joinClaims) { c.Expires = 0 },
		"far":       func(c *joinClaims) { c.Expires = 1 << 60 },
		"no use":    func(c *joinClaims) { c.Uses = 0 },
		"uses":      func(c *joinClaims) { c.Uses = cluster.MaxUses + 1 },
		"host":      func(c *joinClaims) { c.Host = "10.0.0.1" },
		"no place":  func(c *joinClaims) { c.Places = nil },
		"places":    func(c *joinClaims) { c.Places = make([]joinPlace, maxTokenPlace+1) },
		"node":      func(c *joinClaims) { c.Places[0].Node = []byte{1} },
		"no addr":   place(""),
		"no port":   place("192.0.2.1"),
		"port":      place("192.0.2.1:70000"),
		"zero port": place("192.0.2.1:0"),
		"no host":   place(":7946"),
		"space":     place("a b:7946"),
		"escape":    place("\x1b[2J:7946"),
		"long":      place(strings.Repeat("a", 300) + ":7946"),
	} {
		c := good()
		spoil(&c)
		if _, err := newJoinToken(ClusterKey{1}, c); !errors.Is(err, errClaims) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseClaims(f *testing.F) {
	made, err := newJoinToken(ClusterKey{1}, joinClaims{
		Cluster: make([]byte, 16), ID: make([]byte, 16), Expires: 1, Uses: 1, Host: "10.0.0.0/8", Standby: true,
		Places: []joinPlace{{Node: make([]byte, 16), Addr: "192.0.2.1:7946"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(made.encoded)
	f.Add([]byte{0xa1, 0x08, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) // an array without end
	f.Add(bytes.Repeat([]byte{0x81}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseClaims(b)
		if err != nil {
			return
		}
		if len(c.Places) > maxTokenPlace || c.issuer() != cluster.Node(c.Places[0].Node) || c.expires().Unix() != c.Expires {
			t.Fatalf("%+v", c)
		}
		again, err := cbor.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := parseClaims(again); err != nil || !bytes.Equal(d.ID, c.ID) || len(d.Places) != len(c.Places) {
			t.Fatalf("%+v is not %+v: %v", d, c, err)
		}
	})
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add("gmt1-aaaa")
	f.Add("gmt1-" + strings.Repeat("a", maxTokenText))
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseJoinToken(s)
		if err == nil && tok.String() != strings.ToLower(strings.TrimSpace(s)) {
			t.Fatalf("%q has two forms", s)
		}
	})
}
