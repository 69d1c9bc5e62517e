package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

var secretHash = sha256.Sum256([]byte("secret"))

func mint(t testing.TB, s *Store, uses int) TokenID {
	t.Helper()
	tok, err := s.MintToken(context.Background(), "join", "for the branch office", uses, s.clock.now().Add(time.Hour), secretHash)
	check(t, err)
	return tok.ID
}

func spend(s *Store, id TokenID, by int) error {
	_, err := s.SpendToken(context.Background(), id, secretHash, testNode(by))
	return err
}

func TestTokens(t *testing.T) {
	ctx := context.Background()
	wall := &fakeClock{at: wallStart}
	a, b := open(t, Config{Node: testNode(0), Now: wall.now}), open(t, Config{Node: testNode(1), Now: wall.now})
	id := mint(t, a, 2)
	converge(t, a, b)
	if err := spend(a, id, 10); !errors.Is(err, ErrUnconfirmed) {
		t.Error(err)
	}
	a.ConfirmTokens()
	b.ConfirmTokens()
	var elsewhere *ElsewhereError
	if err := spend(b, id, 10); !errors.As(err, &elsewhere) || elsewhere.Issuer != testNode(0) || !strings.Contains(err.Error(), testNode(0).String()) {
		t.Error(err)
	}
	if _, err := a.SpendToken(ctx, id, sha256.Sum256([]byte("guess")), testNode(10)); !errors.Is(err, ErrWrongSecret) {
		t.Error(err)
	}
	if err := spend(a, TokenID{1}, 10); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	check(t, spend(a, id, 10))
	check(t, spend(a, id, 10)) // a retry
	check(t, spend(a, id, 11))
	if err := spend(a, id, 12); !errors.Is(err, ErrSpent) {
		t.Error(err)
	}
	check(t, spend(a, id, 11))
	converge(t, a, b)
	want := Token{
		ID: id, Issuer: testNode(0), Purpose: "join", Note: "for the branch office", Uses: 2, Spent: 2,
		UsedBy: []Node{testNode(10), testNode(11)}, Minted: wallStart, Expires: wallStart.Add(time.Hour),
	}
	for _, s := range []*Store{a, b} {
		if got, err := s.Tokens(); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}

	other := mint(t, a, 5)
	if err := b.RevokeToken(ctx, other); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	converge(t, a, b)
	if err := a.DropToken(ctx, other); err == nil {
		t.Error("a token that can be used was dropped")
	}
	check(t, b.RevokeToken(ctx, other))
	check(t, spend(a, other, 20)) // not heard yet
	converge(t, a, b)
	if err := spend(a, other, 20); !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
	check(t, b.DropToken(ctx, other))
	converge(t, a, b)
	if all, err := a.Tokens(); err != nil || len(all) != 1 {
		t.Error(all, err)
	}

	late := mint(t, a, 1)
	wall.move(time.Hour + expiryLeeway)
	check(t, spend(a, late, 1))
	wall.move(time.Second)
	if err := spend(a, late, 1); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	converge(t, a, b)
	same(t, a, b)
	sound(t, a)
}

func TestTokenLimits(t *testing.T) {
	s := replica(t, 0)
	in := wallStart
	for want, fn := range map[string]func() error{
		"number of uses is 0, at least 1 is needed":       func() error { _, err := s.MintToken(t.Context(), "", "", 0, in, secretHash); return err },
		"number of uses is 1001, at most 1000 is allowed": func() error { _, err := s.MintToken(t.Context(), "", "", 1001, in, secretHash); return err },
		"length of note is 256, at most 255 is allowed": func() error {
			_, err := s.MintToken(t.Context(), "", strings.Repeat("n", 256), 1, in, secretHash)
			return err
		},
		"length of setting name is 129, at most 128 is allowed": func() error {
			return s.SetSettings(t.Context(), map[string][]byte{strings.Repeat("n", 129): nil})
		},
		"setting name is 0, at least 1 is needed": func() error { return s.SetSettings(t.Context(), map[string][]byte{"": nil}) },
		"length of setting x is 65537, at most 65536 is allowed": func() error {
			return s.SetSettings(t.Context(), map[string][]byte{"x": make([]byte, MaxValue+1)})
		},
		"max-instances is 0, at least 1 is needed": func() error {
			return s.SetSettings(t.Context(), map[string][]byte{SettingMaxInstances: []byte("0")})
		},
		"length of gateway's name is 4097, at most 4096 is allowed": func() error {
			return s.PutGateway(t.Context(), Gateway{Node: testNode(0), Name: strings.Repeat("n", 4097)})
		},
		`name "` + strings.Repeat("n", 64) + `": 1 to 63 letters, digits, '-', '_' or '.', the first and the last a letter or a digit`: func() error {
			_, err := s.AddDevice(t.Context(), strings.Repeat("n", 64), testKey(0))
			return err
		},
	} {
		if err := fn(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if cs, err := s.Tokens(); err != nil || len(cs) > 0 {
		t.Error(cs, err)
	}
}

// TestTokenRace: many ask for the last uses at once.
func TestTokenRace(t *testing.T) {
	s := replica(t, 0)
	s.ConfirmTokens()
	id := mint(t, s, 5)
	errs := make([]error, 40)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = spend(s, id, i) })
	}
	wg.Wait()
	granted := 0
	for _, err := range errs {
		if err == nil {
			granted++
		} else if !errors.Is(err, ErrSpent) {
			t.Error(err)
		}
	}
	if granted != 5 {
		t.Errorf("%d of 5 uses", granted)
	}
}

// TestTokenUses is the law: through crashes, restarts, restored backups and disks that were
// rolled back there are never more uses than were minted. What a spending needs before it is
// told is that it is durable; before a disk is rolled back a peer has heard of it.
func TestTokenUses(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		peer := replica(t, 1)
		dirs := 0
		newDir := func() string { dirs++; return filepath.Join(t.TempDir(), fmt.Sprint(dirs)) }
		dir := newDir()
		s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
		s.ConfirmTokens() // alone as yet
		uses := 1 + rnd.IntN(4)
		ids := []TokenID{mint(t, s, uses), mint(t, s, uses)}
		granted := map[TokenID]map[int]bool{ids[0]: {}, ids[1]: {}}
		var copies []string
		confirm := func() {
			if rnd.IntN(4) > 0 {
				pull(t, storeState{s}, storeState{peer})
				s.ConfirmTokens()
			}
		}
		sync := func() { pull(t, storeState{peer}, storeState{s}) }
		sync()
		for range 30 {
			switch rnd.IntN(8) {
			case 0: // restart
				stop()
				s, stop = start(t, Config{Dir: dir, Node: testNode(0)})
				confirm()
			case 1: // keep a copy of the disk
				stop()
				c := newDir()
				check(t, os.CopyFS(c, os.DirFS(dir)))
				copies = append(copies, c)
				s, stop = start(t, Config{Dir: dir, Node: testNode(0)})
				confirm()
			case 2: // put one back
				if len(copies) == 0 {
					continue
				}
				sync()
				stop()
				dir = newDir()
				check(t, os.CopyFS(dir, os.DirFS(copies[rnd.IntN(len(copies))])))
				s, stop = start(t, Config{Dir: dir, Node: testNode(0)})
				confirm()
			case 3: // restore a backup: all cells, on a new disk
				if rnd.IntN(4) > 0 {
					continue
				}
				sync()
				stop()
				dir = newDir()
				s, stop = start(t, Config{Dir: dir, Node: testNode(0)})
				pull(t, storeState{s}, storeState{peer})
				s.ConfirmTokens()
			case 4:
				sync()
			default:
				id, by := ids[rnd.IntN(2)], rnd.IntN(8)
				if err := spend(s, id, by); err == nil {
					granted[id][by] = true
				}
			}
			for id, who := range granted {
				if len(who) > uses {
					t.Fatalf("seed %d: token %s was used %d times of %d", seed, id, len(who), uses)
				}
			}
		}
		stop()
	}
}

// TestRollbackIsNoticed: after it came back to an older disk a gateway spends nothing, once
// it has heard of what it wrote since.
func TestRollbackIsNoticed(t *testing.T) {
	dir, copied := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	s.ConfirmTokens()
	id := mint(t, s, 1)
	stop()
	check(t, os.CopyFS(copied, os.DirFS(dir)))
	s, stop = start(t, Config{Dir: dir, Node: testNode(0)})
	s.ConfirmTokens()
	check(t, spend(s, id, 7))
	peer := replica(t, 1)
	pull(t, storeState{peer}, storeState{s})
	stop()
	s, stop = start(t, Config{Dir: dir, Node: testNode(0)}) // an ordinary restart costs nothing
	pull(t, storeState{s}, storeState{peer})
	s.ConfirmTokens()
	check(t, spend(s, id, 7))
	stop()
	s = open(t, Config{Dir: copied, Node: testNode(0)})
	pull(t, storeState{s}, storeState{peer})
	s.ConfirmTokens()
	if err := spend(s, id, 7); !errors.Is(err, ErrNoRights) {
		t.Errorf("got %v", err)
	}
	check(t, spend(s, mint(t, s, 1), 8)) // what is minted now is good
}
