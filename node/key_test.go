package node

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestClusterKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k ClusterKey
		copy(k[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		s := k.String()
		for _, text := range []string{s, " " + s + "\n", strings.ToUpper(s)} {
			if got, err := ParseClusterKey(text); err != nil || got != k {
				t.Fatalf("ParseClusterKey(%q) = %x, %v; want %x", text, got, err, k)
			}
		}
	})
}

// One wrong letter is always noticed: nobody waits for a join that cannot be.
func TestClusterKeyChecksum(t *testing.T) {
	s := NewClusterKey().String()
	for i := len(keyPrefix); i < len(s); i++ {
		c := byte('a')
		if s[i] == c {
			c = 'b'
		}
		if _, err := ParseClusterKey(s[:i] + string(c) + s[i+1:]); err == nil {
			t.Errorf("letter %d changed and nobody noticed", i)
		}
	}
	for _, bad := range []string{"", "gmk1-", "gmt1-" + s[5:], s[:len(s)-1], s + "a"} {
		if _, err := ParseClusterKey(bad); err == nil {
			t.Errorf("ParseClusterKey(%q) was accepted", bad)
		}
	}
}

func FuzzParseClusterKey(f *testing.F) {
	f.Add(NewClusterKey().String())
	f.Add("gmk1-")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseClusterKey(s)
		if err == nil && k.String() != strings.ToLower(strings.TrimSpace(s)) {
			t.Fatalf("%q was read as %q", s, k)
		}
	})
}
