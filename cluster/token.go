package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// A token may be used a number of times, all over the cluster, also when the cluster is split.
// So the right to spend its uses belongs to one gateway alone, its issuer, and there to one
// disk: only the store in which it was minted spends. A spending is durable before it is told.
//
// A store that is made anew, by restoring a backup too, is another disk, since what names the
// disk is no cell. A disk that was rolled back names itself as before. Two things stand against
// it: nothing is spent before ConfirmTokens, that is before the gateway has caught up with a
// peer or knows that it has none; and a store that is sent a write of its own gateway that it
// never made takes another name, for good, in the transaction that merges the write. So
// uses beyond those minted take a disk rolled back to before a spending of which no peer that
// was heard since has got word.
//
// A use is a field of its own, named by whoever used it: who asks twice spends once.

const (
	kindToken    = "token"
	fieldMint    = "mint"
	fieldUsed    = "used/" // and the node that used it
	fieldRevoked = "revoked"

	// MaxUses is the greatest number of uses of a token.
	MaxUses = 1000
	// expiryLeeway is for how long after its expiry a token is taken, for clocks differ.
	expiryLeeway = time.Minute
	maxNote      = 255 // bytes
)

var metaDisk = []byte("mdisk") // names this disk: 16 random bytes, made with the first token

// Errors of spending.
var (
	ErrSpent       = errors.New("token has no uses left")
	ErrRevoked     = errors.New("token was revoked")
	ErrExpired     = errors.New("token has expired")
	ErrNoRights    = errors.New("token was minted on another disk of this gateway")
	ErrUnconfirmed = errors.New("this gateway has not caught up with a peer since it started")
	ErrWrongSecret = errors.New("token's secret is wrong")
)

// ElsewhereError says that a token can be spent at its issuer only.
type ElsewhereError struct{ Issuer Node }

func (e *ElsewhereError) Error() string {
	return "token can be spent at its issuer " + e.Issuer.String() + " only"
}

// TokenID names a token. It is no secret.
type TokenID [16]byte

func (id TokenID) String() string { return hex.EncodeToString(id[:]) }

// Token is a right to do something a number of times.
type Token struct {
	ID      TokenID
	Issuer  Node
	Purpose string // what it is for, for the caller; at most 255 bytes
	Note    string // an administrator's; at most 255 bytes
	Uses    int    // minted
	Spent   int
	UsedBy  []Node // ascending
	Minted  time.Time
	Expires time.Time
	Revoked bool
}

// wireMint is the value of a token's first field in CBOR. It never changes.
type wireMint struct {
	_       struct{} `cbor:",toarray"`
	Issuer  []byte
	Disk    []byte
	Hash    []byte // of the secret, which is not stored
	Uses    uint64
	Minted  int64 // Unix milliseconds
	Expires int64
	Purpose string
	Note    string
}

func tokenRef(id TokenID) ref { return refOf(kindToken, id[:]) }

// MintToken makes a token that this gateway issues. hash is the SHA-256 of its secret, zero if
// what is spent is proven otherwise. It returns a *LimitError unless uses are 1 to MaxUses.
func (s *Store) MintToken(ctx context.Context, purpose, note string, uses int, expires time.Time, hash [32]byte) (Token, error) {
	if uses < 1 || uses > MaxUses {
		return Token{}, &LimitError{What: "number of uses", Got: uses, Min: 1, Max: MaxUses}
	}
	if err := cmp.Or(checkLength("purpose", len(purpose), maxNote), checkLength("note", len(note), maxNote)); err != nil {
		return Token{}, err
	}
	var id TokenID
	_, _ = rand.Read(id[:]) // never fails, crypto/rand
	w := wireMint{
		Issuer: s.node[:], Hash: hash[:], Uses: uint64(uses), Minted: s.clock.now().UnixMilli(),
		Expires: expires.UnixMilli(), Purpose: purpose, Note: note,
	}
	err := s.update(ctx, func(t *tx) error {
		disk, err := t.disk()
		if err != nil {
			return err
		}
		w.Disk = disk
		value, err := encoder.Marshal(w)
		if err != nil {
			return fmt.Errorf("encode token: %w", err)
		}
		if err := t.write(tokenRef(id), cell{life: 1}); err != nil {
			return err
		}
		return t.put(tokenRef(id), fieldMint, value)
	})
	if err != nil {
		return Token{}, err
	}
	return s.Token(id)
}

// disk returns the name of this disk; a new disk gets one.
func (t *tx) disk() ([]byte, error) {
	b, err := t.get(metaDisk)
	if err != nil || len(b) == len(TokenID{}) {
		return b, err
	}
	return t.newDisk(), nil
}

// newDisk takes another name: what was minted here can be spent no more.
func (t *tx) newDisk() []byte {
	b := make([]byte, len(TokenID{}))
	_, _ = rand.Read(b) // never fails, crypto/rand
	t.set(metaDisk, b)
	return b
}

// ConfirmTokens says that this gateway has taken in all that one peer knew, since the store
// was opened, or that it is the cluster's only member. Before that SpendToken refuses. It
// does not block.
func (s *Store) ConfirmTokens() { s.confirmed.Store(true) }

// TokensConfirmed says whether ConfirmTokens was called.
func (s *Store) TokensConfirmed() bool { return s.confirmed.Load() }

// doubt looks for writes of this gateway that this disk does not know: it was rolled back, or
// another copy of it has run. What it minted can be spent no more.
func (s *Store) doubt(t *tx, rs []record) error {
	for _, r := range rs {
		a := r.cell.stamp.author
		if a.node() != s.node {
			continue
		}
		h, err := t.head(a)
		if err != nil {
			return err
		}
		e, err := t.entity(r.ref)
		if err != nil {
			return err
		}
		if c := e.get(r.cell.field); r.cell.seq <= h.seq || c != nil && c.compare(&r.cell) == 0 {
			continue
		}
		if b, err := t.get(metaDisk); err != nil || b == nil {
			return err
		}
		t.newDisk()
		s.log.Warn("this gateway's disk is older than what it wrote; its tokens cannot be spent any more", "node", s.node)
		return nil
	}
	return nil
}

// SpendToken spends one use of a token for a node and returns when that is durable. Who has
// used the token before is let through again and spends nothing. It returns an error that
// wraps ErrNotFound, an *ElsewhereError, or one of the errors of spending.
func (s *Store) SpendToken(ctx context.Context, id TokenID, hash [32]byte, by Node) (Token, error) {
	now := s.clock.now()
	var tok Token
	err := s.update(ctx, func(t *tx) error {
		e, err := t.entity(tokenRef(id))
		if err != nil {
			return err
		}
		w, ok := mintOf(e)
		if !ok {
			return fmt.Errorf("token %s: %w", id, ErrNotFound)
		}
		disk, err := t.get(metaDisk)
		if err != nil {
			return err
		}
		if err := s.spendable(&w, e, disk, hash, by, now); err != nil {
			return err
		}
		field := fieldUsed + by.String()
		if e.get(field) == nil {
			if err := t.put(tokenRef(id), field, []byte(formatTime(now))); err != nil {
				return err
			}
		}
		tok = tokenOf(id, &w, e)
		return nil
	})
	if err != nil {
		return Token{}, err // when ctx ended, the committer may be writing tok
	}
	return tok, nil
}

// spendable decides whether this store may spend a use.
func (s *Store) spendable(w *wireMint, e *entity, disk []byte, hash [32]byte, by Node, now time.Time) error {
	tok := tokenOf(TokenID{}, w, e)
	switch {
	case tok.Issuer != s.node:
		return &ElsewhereError{tok.Issuer}
	case subtle.ConstantTimeCompare(w.Hash, hash[:]) != 1:
		return ErrWrongSecret
	case tok.Revoked:
		return ErrRevoked
	case now.After(tok.Expires.Add(expiryLeeway)):
		return ErrExpired
	case len(disk) == 0 || string(disk) != string(w.Disk):
		return ErrNoRights
	case !s.confirmed.Load():
		return ErrUnconfirmed
	case tok.Spent >= tok.Uses && e.get(fieldUsed+by.String()) == nil:
		return ErrSpent
	}
	return nil
}

// RevokeToken ends a token, from any gateway. It cannot be undone. It returns an error that
// wraps ErrNotFound. A use that the issuer grants before it hears of it stands.
func (s *Store) RevokeToken(ctx context.Context, id TokenID) error {
	return s.update(ctx, func(t *tx) error {
		e, err := t.entity(tokenRef(id))
		if err != nil {
			return err
		}
		if _, ok := mintOf(e); !ok {
			return fmt.Errorf("token %s: %w", id, ErrNotFound)
		}
		if e.get(fieldRevoked) != nil {
			return nil
		}
		return t.write(tokenRef(id), cell{field: fieldRevoked, rank: 1})
	})
}

// DropToken forgets a token that can be spent no more. It returns an error that wraps
// ErrNotFound. A token that can be spent still must be revoked first.
func (s *Store) DropToken(ctx context.Context, id TokenID) error {
	now := s.clock.now()
	return s.update(ctx, func(t *tx) error {
		e, err := t.entity(tokenRef(id))
		if err != nil {
			return err
		}
		w, ok := mintOf(e)
		if !ok {
			return fmt.Errorf("token %s: %w", id, ErrNotFound)
		}
		if tok := tokenOf(id, &w, e); !tok.Revoked && !now.After(tok.Expires.Add(expiryLeeway)) {
			return fmt.Errorf("token %s can be used still", id)
		}
		return t.write(tokenRef(id), cell{life: e.life() + 1})
	})
}

// Token returns a token, or an error that wraps ErrNotFound.
func (s *Store) Token(id TokenID) (tok Token, err error) {
	err = s.view(func(txn *badger.Txn) error {
		e, err := readEntity(snapshot{txn}, tokenRef(id))
		if err != nil {
			return err
		}
		w, ok := mintOf(e)
		if !ok {
			return fmt.Errorf("token %s: %w", id, ErrNotFound)
		}
		tok = tokenOf(id, &w, e)
		return nil
	})
	return tok, err
}

// Tokens returns all tokens, the oldest first.
func (s *Store) Tokens() (all []Token, err error) {
	err = s.eachEntity(kindToken, func(id []byte, e *entity) error {
		if w, ok := mintOf(e); ok && len(id) == len(TokenID{}) {
			all = append(all, tokenOf(TokenID(id), &w, e))
		}
		return nil
	})
	slices.SortFunc(all, func(a, b Token) int {
		return cmp.Or(a.Minted.Compare(b.Minted), strings.Compare(a.ID.String(), b.ID.String()))
	})
	return all, err
}

// mintOf reads what a token was minted as; ok is false if it is none or was dropped.
func mintOf(e *entity) (w wireMint, ok bool) {
	if !e.alive() || decoder.Unmarshal(e.value(fieldMint), &w) != nil {
		return w, false
	}
	return w, len(w.Issuer) == len(Node{}) && len(w.Disk) == len(TokenID{}) && len(w.Hash) == 32 && w.Uses >= 1 && w.Uses <= MaxUses
}

// tokenAction says what the audit calls a change of a token, and an administrator the token.
func tokenAction(was, is *entity) (action, note string) {
	before, minted := mintOf(was)
	now, there := mintOf(is)
	switch {
	case !minted:
		return "add", now.Note
	case !there:
		return "remove", before.Note
	case was.get(fieldRevoked) == nil && is.get(fieldRevoked) != nil:
		return "revoke", now.Note
	}
	return "use", now.Note
}

func tokenOf(id TokenID, w *wireMint, e *entity) Token {
	tok := Token{
		ID: id, Issuer: Node(w.Issuer), Purpose: w.Purpose, Note: w.Note, Uses: int(w.Uses), //nolint:gosec // at most MaxUses
		Minted: time.UnixMilli(w.Minted).UTC(), Expires: time.UnixMilli(w.Expires).UTC(), Revoked: e.get(fieldRevoked) != nil,
	}
	for i := range e.cells {
		text, ok := strings.CutPrefix(e.cells[i].field, fieldUsed)
		if n, err := ParseNode(text); ok && err == nil {
			tok.UsedBy = append(tok.UsedBy, n)
		}
	}
	tok.Spent = len(tok.UsedBy)
	return tok
}
