package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatemesh/mesh"
)

// Invite makes a join token that only the holder of key may use.
func Invite(ctx context.Context, n *Node, key ed25519.PublicKey) (*JoinToken, error) {
	made, err := n.invite(ctx, key, "test")
	if err != nil {
		return nil, err
	}
	t, err := ParseJoinToken(made.Secret)
	return &t, err
}

// A code that was renewed after it was proven is worth nothing any more.
func TestCodeRenewedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	old, err := renewClaimCode(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := &claimable{n: &Node{cfg: Config{Data: dir}}}
	if _, err := renewClaimCode(dir); err != nil {
		t.Fatal(err)
	}
	var no *mesh.RefusedError
	if _, err := c.examine(t.Context(), old.secret(), claimOffer{}); !errors.As(err, &no) ||
		!strings.Contains(no.Reason, "renewed meanwhile") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(dir, claimFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.examine(t.Context(), ClaimCode("").secret(), claimOffer{}); !errors.As(err, &no) ||
		!strings.Contains(no.Reason, "renewed meanwhile") {
		t.Errorf("none: %v", err)
	}
}
