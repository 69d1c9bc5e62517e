package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Settings of the audit, and what stands while they are not set.
const (
	SettingAuditLevel = "audit-level" // AuditAll, AuditSecurity or AuditOff
	SettingAuditDays  = "audit-days"  // how long records are kept, decimal
	DefaultAuditDays  = 90
)

// Levels of a record: at which setting it is written.
const (
	AuditAll      = "all"      // at AuditAll only: names, what gateways say of themselves
	AuditSecurity = "security" // at both: who may connect, who may join, secrets, settings
	AuditOff      = "off"      // of the setting only: nothing is recorded
)

// Actor is who changes something, and from where.
type Actor struct {
	Name   string // "user root (0)", "gateway"
	Source string // "control socket, process 4711"; may be empty
}

type actorKey struct{}

// WithActor says on whose behalf writes with ctx are made. Without an actor nothing is
// recorded of them.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, &a)
}

// actorOf returns nil if ctx has none.
func actorOf(ctx context.Context) *Actor {
	a, _ := ctx.Value(actorKey{}).(*Actor)
	return a
}

// Record is one entry of the audit: what was changed at one gateway in one
// transaction of one entity. Those of one author are a chain: each names the hash
// of the one before, the first one that of the last one before the gateway's start.
type Record struct {
	Origin  Node
	Run     uint64 // incarnation of the origin
	Seq     uint64 // in this run, from 1
	Time    time.Time
	Actor   Actor
	Action  string // "add", "remove", "change", …
	Object  string // "device laptop KEY"
	Changes []FieldChange
	Level   string
	Before  [32]byte // hash of the record before; zero: the first of all
	Hash    [32]byte
}

// FieldChange is what became of one field; secrets are told as "set" or "none".
type FieldChange struct{ Field, Before, After string }

// Limits of a record, in bytes and entries.
const (
	maxAuditText    = 255
	maxAuditChanges = 32
)

// wireAudit is a record in CBOR; author and seq are in its id.
type wireAudit struct {
	Time    int64       `cbor:"1,keyasint"` // Unix milliseconds
	Actor   string      `cbor:"2,keyasint,omitempty"`
	Source  string      `cbor:"3,keyasint,omitempty"`
	Action  string      `cbor:"4,keyasint"`
	Object  string      `cbor:"5,keyasint,omitempty"`
	Changes [][3]string `cbor:"6,keyasint,omitempty"`
	Level   string      `cbor:"7,keyasint"`
	Before  []byte      `cbor:"8,keyasint"`
}

// A record is the one cell of an entity: kind "audit", id author and seq, value its hash and then
// its CBOR. The hash is SHA-256 over a context, the id and the CBOR.
const (
	kindAudit    = "audit"
	fieldRecord  = "record"
	auditContext = "gatemesh audit record v1\x00"
	auditIDSize  = len(author{}) + 8
)

// Kind "audit-cut", id author: the records up to rank were cut off, the last of
// which had the hash that is its value.
const (
	kindAuditCut = "audit-cut"
	fieldCut     = "cut"
)

func auditRef(a author, seq uint64) ref {
	return refOf(kindAudit, binary.BigEndian.AppendUint64(a[:], seq))
}

func auditHash(id, body []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(auditContext))
	h.Write(id)
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

// encode returns the value of a record's cell, and sets its hash.
func (r *Record) encode(id []byte) ([]byte, error) {
	w := wireAudit{
		Time: r.Time.UnixMilli(), Actor: brief(r.Actor.Name), Source: brief(r.Actor.Source),
		Action: brief(r.Action), Object: brief(r.Object), Level: r.Level, Before: r.Before[:],
	}
	for _, c := range r.Changes[:min(len(r.Changes), maxAuditChanges)] {
		w.Changes = append(w.Changes, [3]string{brief(c.Field), brief(c.Before), brief(c.After)})
	}
	body, err := encoder.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	r.Hash = auditHash(id, body)
	return append(r.Hash[:], body...), nil
}

// brief cuts a text to what a record may hold.
func brief(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxAuditText {
		return s
	}
	const dots = "…"
	return strings.ToValidUTF8(s[:maxAuditText-len(dots)], "") + dots
}

var errAuditRecord = errors.New("is damaged")

// decodeRecord reads the value of a record's cell. Where it was altered, the
// error says so and the record is not to be trusted.
func decodeRecord(id, value []byte) (Record, error) {
	var r Record
	if len(id) != auditIDSize {
		return r, errAuditRecord
	}
	a := author(id[:len(author{})])
	r.Origin, r.Run, r.Seq = a.node(), a.incarnation(), binary.BigEndian.Uint64(id[len(a):])
	if len(value) < len(r.Hash) {
		return r, errAuditRecord
	}
	r.Hash = [32]byte(value[:32])
	body := value[32:]
	var w wireAudit
	if auditHash(id, body) != r.Hash || decoder.Unmarshal(body, &w) != nil || len(w.Before) != len(r.Before) || len(w.Changes) > maxAuditChanges {
		return r, errAuditRecord
	}
	for _, s := range []string{w.Actor, w.Source, w.Action, w.Object, w.Level} {
		if len(s) > maxAuditText {
			return r, errAuditRecord
		}
	}
	r.Time, r.Before = time.UnixMilli(w.Time).UTC(), [32]byte(w.Before)
	r.Actor, r.Action, r.Object, r.Level = Actor{w.Actor, w.Source}, w.Action, w.Object, w.Level
	for _, c := range w.Changes {
		if max(len(c[0]), len(c[1]), len(c[2])) > maxAuditText {
			return r, errAuditRecord
		}
		r.Changes = append(r.Changes, FieldChange{c[0], c[1], c[2]})
	}
	return r, nil
}
