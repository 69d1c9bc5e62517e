package node

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestClaimCodeText(t *testing.T) {
	form := regexp.MustCompile(`^gmc1(-[a-z2-7]{4}){6}$`)
	seen := map[ClaimCode]bool{}
	for range 200 {
		c := NewClaimCode()
		if seen[c] || !form.MatchString(c.String()) {
			t.Fatalf("%q", c)
		}
		seen[c] = true
		bare := codePrefix + strings.ReplaceAll(c.String()[5:], "-", "")
		for _, s := range []string{c.String(), " " + strings.ToUpper(c.String()) + "\n", bare} {
			if got, err := ParseClaimCode(s); err != nil || got != c {
				t.Fatalf("%q: %q, %v", s, got, err)
			}
		}
	}
	c := NewClaimCode().String()
	missed := 0
	for i := range c {
		b := []byte(c)
		if b[i] == 'a' {
			b[i] = 'b'
		} else {
			b[i] = 'a'
		}
		if _, err := ParseClaimCode(string(b)); err == nil {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("%d wrong letters pass", missed)
	}
	for _, s := range []string{
		"", "gmc1-", "geheim", "gmc1-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa", c[:len(c)-1], c + "a",
		strings.Repeat("a", 1000),
	} {
		if _, err := ParseClaimCode(s); !errors.Is(err, ErrCode) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestClaimCodeFile(t *testing.T) {
	dir := t.TempDir()
	if c, err := readClaimCode(dir); c != "" || err != nil {
		t.Errorf("none: %q, %v", c, err)
	}
	a, err := renewClaimCode(dir)
	if got, err2 := readClaimCode(dir); err != nil || err2 != nil || got != a {
		t.Errorf("%q, %q, %v, %v", a, got, err, err2)
	}
	if st, err := os.Stat(filepath.Join(dir, claimFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, claimFile), []byte("my own code\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var hint *HintError
	if c, err := readClaimCode(dir); c != "" || !errors.As(err, &hint) {
		t.Errorf("of one's own choice: %q, %v", c, err)
	}
}

func FuzzParseClaimCode(f *testing.F) {
	f.Add(NewClaimCode().String())
	f.Add("gmc1-aaaa")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := ParseClaimCode(s); err == nil {
			if again, err := ParseClaimCode(c.String()); err != nil || again != c {
				t.Fatalf("%q: %q is not %q, %v", s, again, c, err)
			}
		}
	})
}

// What the two sides of a claim say of themselves.
func FuzzClaimSides(f *testing.F) {
	add := func(v any) {
		b, err := cbor.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(candidacy{
		Name: "n", Version: "v", Cluster: make([]byte, 16), Devices: 1, Gateways: 2, Connected: 3,
		Key: make([]byte, 32),
	})
	add(claimOffer{Token: "gmt1-", Devices: 1, Force: true, By: "n"})
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCandidacy(b); err == nil && (len(c.Cluster) != 16 || len(c.Key) != 32 || len(c.Name) > 64 ||
			c.Devices < 0) {
			t.Fatalf("%+v", c)
		}
		if o, err := parseClaimOffer(b); err == nil && (len(o.Token) > maxClaimText || o.Devices < 0) {
			t.Fatalf("%+v", o)
		}
	})
}
