package node

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestPassword(t *testing.T) {
	ctx := t.Context()
	text, err := newVerifier(ctx, "korrekt pferd")
	if err != nil || !strings.HasPrefix(text, "$argon2id$v=19$m=65536,t=3,p=4$") || strings.Contains(text, "pferd") {
		t.Fatalf("%q, %v", text, err)
	}
	v, ok := parseVerifier(text)
	if !ok {
		t.Fatalf("%q is not read", text)
	}
	for password, want := range map[string]bool{"korrekt pferd": true, "korrekt Pferd": false, "": false} {
		if is, err := v.is(ctx, password); is != want || err != nil {
			t.Errorf("%q: %v, %v", password, is, err)
		}
	}
	// Nobody has a password, and says so in the time of others.
	if is, err := nobody().is(ctx, ""); is || err != nil {
		t.Errorf("nobody: %v, %v", is, err)
	}
	if v.time != nobody().time || v.memory != nobody().memory || v.threads != nobody().threads {
		t.Errorf("%+v costs other than %+v", v, nobody())
	}
	for _, s := range []string{
		"", "x", strings.Replace(text, "m=65536", "m=99999999", 1), strings.Replace(text, "t=3", "t=999", 1),
		strings.Replace(text, "p=4", "p=0", 1),
		strings.Replace(text, "argon2id", "argon2i", 1), text + "a", text + "$",
	} {
		if _, ok := parseVerifier(s); ok {
			t.Errorf("%q is taken", s)
		}
	}
}

// No more than two passwords are hashed at once; the others wait, and go when nobody waits for them any more.
func TestHashesAtOnce(t *testing.T) {
	for range hashesAtOnce {
		hashing <- struct{}{}
	}
	defer func() {
		for range hashesAtOnce {
			<-hashing
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := nobody().is(ctx, "x"); err == nil {
		t.Error("one more was hashed")
	}
}

func FuzzParseVerifier(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=8,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		if v, ok := parseVerifier(s); ok && (v.String() != s || v.memory > maxArgonMemory || v.time > maxArgonTime ||
			v.threads == 0) {
			t.Fatalf("%q: %+v", s, v)
		}
	})
}

// CheapPasswords lets passwords take little memory and time until the test ends.
func CheapPasswords(t *testing.T) {
	was := argonMemory
	argonMemory = 64
	t.Cleanup(func() { argonMemory = was })
}
