package mesh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// tokenSecret is the secret of a token, made under one of the cluster's keys.
func tokenSecret(key byte, id []byte) [32]byte {
	return sha256.Sum256(append([]byte{key}, id...))
}

func TestCredentials(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		var came mesh.Newcomer
		asked := 0
		a := start(t, n, "a", 1, func(c *mesh.Config) {
			c.Secrets = func(kind string, id []byte) ([][32]byte, error) {
				asked++
				switch {
				case string(id) == "old":
					return nil, &mesh.RefusedError{Reason: "too old", Hint: "make another"}
				case kind == mesh.CredentialToken:
					return [][32]byte{tokenSecret(1, id), tokenSecret(2, id)}, nil
				case kind == mesh.CredentialKey:
					return [][32]byte{{3}, {4}}, nil
				}
				return nil, nil
			}
			c.Welcome = func(_ context.Context, nc mesh.Newcomer) ([]byte, error) { came = nc; return nil, nil }
		})
		pin := sha256.Sum256(a.key.Public().(ed25519.PublicKey))
		token := func(key byte, made, shown string) mesh.Credential {
			return mesh.Credential{Kind: mesh.CredentialToken, ID: []byte(shown), Secret: tokenSecret(key, []byte(made))}
		}
		pinned := func(c mesh.Credential, b []byte) mesh.Credential { c.Member = b; return c }
		for i, c := range []struct {
			mesh.Credential
			want error
		}{
			{mesh.Credential{Secret: [32]byte{3}}, nil},
			{mesh.Credential{Secret: [32]byte{4}}, nil},
			{mesh.Credential{Secret: [32]byte{5}}, mesh.ErrWrongKey},
			{mesh.Credential{Secret: [32]byte{3}, ID: []byte("not looked at")}, nil},
			{token(1, "a", "a"), nil},
			{token(2, "a", "a"), nil},
			{token(3, "a", "a"), mesh.ErrWrongKey},
			{token(1, "a", "b"), mesh.ErrWrongKey},
			{token(1, "a", ""), mesh.ErrWrongKey},
			{mesh.Credential{Kind: mesh.CredentialToken, Secret: [32]byte{3}}, mesh.ErrWrongKey},
			{mesh.Credential{Kind: "unheard of", Secret: [32]byte{3}}, mesh.ErrWrongKey},
			{pinned(token(1, "a", "a"), pin[:]), nil},
			{pinned(token(1, "a", "a"), pin[:16]), nil},
			{pinned(token(1, "a", "a"), make([]byte, 32)), mesh.ErrWrongMember},
			{pinned(mesh.Credential{Secret: [32]byte{3}}, make([]byte, 16)), mesh.ErrWrongMember},
		} {
			name := fmt.Sprint("n", i)
			cfg, _ := joining(n, name, 2+i)
			cfg.Credential = c.Credential
			came, asked = mesh.Newcomer{}, 0
			_, _, err := mesh.Join(t.Context(), cfg, a.addr())
			if !errors.Is(err, c.want) {
				t.Errorf("%d: %v, want %v", i, err, c.want)
			}
			if c.want == nil && (came.Kind == "" || string(came.ID) != string(c.ID) ||
				time.Until(came.Time).Abs() > time.Second) {
				t.Errorf("%d: %+v", i, came)
			}
			if errors.Is(c.want, mesh.ErrWrongMember) && asked != 0 {
				t.Errorf("%d: another member than the one expected was told of the credential", i)
			}
		}
		cfg, _ := joining(n, "z", 100)
		cfg.Credential = token(1, "old", "old")
		var no *mesh.RefusedError
		if _, _, err := mesh.Join(t.Context(), cfg, a.addr()); !errors.As(err, &no) || no.Reason != "too old" ||
			no.Hint != "make another" || no.Final {
			t.Errorf("refused: %v", err)
		}
		cfg.Credential.Member = pin[:]
		if _, _, err := mesh.Join(t.Context(), cfg, a.addr()); !errors.As(err, &no) || !no.Final {
			t.Errorf("refused by the member that was expected: %v", err)
		}
		for _, c := range []mesh.Credential{
			{Member: []byte("short")},
			{ID: make([]byte, 5000)},
			{Kind: string(make([]byte, 65))},
		} {
			cfg.Credential = c
			if _, _, err := mesh.Join(t.Context(), cfg, a.addr()); err == nil {
				t.Errorf("joined with %+v", c)
			}
		}
		closeAll(a)
	})
}
