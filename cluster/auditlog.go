package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Fault is a record that is not what its gateway wrote.
type Fault struct {
	Origin Node
	Run    uint64
	Seq    uint64
	Reason string // "is damaged", "is missing", …
}

func (f Fault) Error() string {
	return fmt.Sprintf("record %s/%x/%d %s", f.Origin, f.Run, f.Seq, f.Reason)
}

// Records yields all records of one committed state, chain by chain, in order. A
// damaged one comes with a Fault as its error, of which Origin, Run and Seq are also in
// the record; any other error ends the sequence. The store stays open until then.
func (s *Store) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := s.view(func(txn *badger.Txn) error {
			return eachRecord(txn, func(r Record, err error) error {
				if !yield(r, err) {
					return errEnough
				}
				return nil
			})
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Record{}, err)
		}
	}
}

// eachRecord calls fn with the records, by author and seq.
func eachRecord(txn *badger.Txn, fn func(Record, error) error) error {
	prefix := append([]byte{atEntity, byte(len(kindAudit))}, kindAudit...)
	it := txn.NewIterator(prefixed(prefix))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		at, _, ok := cutRef(it.Item().Key()[1:])
		if !ok || len(at.id()) != auditIDSize {
			continue // of a newer version
		}
		b, err := it.Item().ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("read audit: %w", err)
		}
		var value []byte
		if e, err := decodeEntity(b); err == nil {
			if e.life() > 0 {
				continue // cut off
			}
			value = e.value(fieldRecord)
		}
		r, err := decodeRecord(at.id(), value)
		if err != nil {
			err = Fault{r.Origin, r.Run, r.Seq, err.Error()}
		}
		if err := fn(r, err); err != nil {
			return err
		}
	}
	return nil
}

// chain names the records of one run of one gateway.
type chain struct {
	origin Node
	run    uint64
}

// anchor is where a chain was cut.
type anchor struct {
	seq  uint64
	hash [32]byte
}

// VerifyAudit checks every record and every chain that is stored here. It returns how many
// records there are, and what is wrong.
func (s *Store) VerifyAudit() (records int, faults []Fault, err error) {
	cuts, err := s.cuts()
	if err != nil {
		return 0, nil, err
	}
	v := verifier{cuts: cuts, hashes: map[[32]byte]Node{}}
	for c, cut := range cuts {
		v.hashes[cut.hash] = c.origin
	}
	for r, err := range s.Records() {
		var fault Fault
		if err != nil && !errors.As(err, &fault) {
			return 0, nil, err
		}
		records++
		v.take(r, err == nil)
	}
	return records, v.end(), nil
}

// cuts reads where chains were cut.
func (s *Store) cuts() (map[chain]anchor, error) {
	cuts := map[chain]anchor{}
	err := s.eachEntity(kindAuditCut, func(id []byte, e *entity) error {
		c := e.get(fieldCut)
		if len(id) == len(author{}) && c != nil && len(c.value) == 32 {
			cuts[chainOf(author(id))] = anchor{c.rank, [32]byte(c.value)}
		}
		return nil
	})
	return cuts, err
}

func chainOf(a author) chain { return chain{a.node(), a.incarnation()} }

// verifier checks records that come chain by chain, in order.
type verifier struct {
	cuts   map[chain]anchor
	hashes map[[32]byte]Node // of sound records and of those that were cut last
	faults []Fault
	firsts []Record // of chains that were not cut

	at    chain
	seq   uint64
	hash  [32]byte
	known bool // hash is that of the record before
}

func (v *verifier) fault(r Record, seq uint64, reason string) {
	v.faults = append(v.faults, Fault{r.Origin, r.Run, seq, reason})
}

func (v *verifier) take(r Record, sound bool) {
	if c := (chain{r.Origin, r.Run}); c != v.at {
		cut, was := v.cuts[c]
		v.at, v.seq, v.hash, v.known = c, cut.seq, cut.hash, was
	}
	if r.Seq <= v.seq {
		return // cut off, but its deletion is still on its way
	}
	if r.Seq > v.seq+1 {
		v.fault(r, v.seq+1, "is missing"+upTo(v.seq+1, r.Seq-1))
		v.known = false
	}
	switch {
	case !sound:
		v.fault(r, r.Seq, errAuditRecord.Error())
	case v.known && r.Before != v.hash:
		v.fault(r, r.Seq, "does not follow the one before it")
	case r.Seq == 1:
		v.firsts = append(v.firsts, r)
	}
	v.seq, v.hash, v.known = r.Seq, r.Hash, sound
	if sound {
		v.hashes[r.Hash] = r.Origin
	}
}

func upTo(first, last uint64) string {
	if first == last {
		return ""
	}
	return ", and all up to " + strconv.FormatUint(last, 10)
}

// end checks that each chain goes on from one of the same gateway.
func (v *verifier) end() []Fault {
	for _, r := range v.firsts {
		if r.Before != ([32]byte{}) && v.hashes[r.Before] != r.Origin {
			v.fault(r, r.Seq, "follows a record of an earlier start that is missing or damaged")
		}
	}
	return v.faults
}

// cutsPerWrite bounds one transaction of CutAudit.
const cutsPerWrite = 256

// CutAudit removes old records from the beginning of the chains and keeps the hash of
// the last: those of this gateway from before own, and those of the others from
// before others, should they be gone. It returns how many.
func (s *Store) CutAudit(ctx context.Context, own, others time.Time) (n int, err error) {
	var old []Record
	var kept chain // whose rest stays
	err = s.view(func(txn *badger.Txn) error {
		return eachRecord(txn, func(r Record, err error) error {
			limit, c := others, chain{r.Origin, r.Run}
			if r.Origin == s.node {
				limit = own
			}
			if err != nil || c == kept || !r.Time.Before(limit) {
				kept = c
				return nil
			}
			old = append(old, r)
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	for some := range slices.Chunk(old, cutsPerWrite) {
		if err := s.submit(ctx, newRequest(func(t *tx) error { return t.cut(some) })); err != nil {
			return n, err
		}
		n += len(some)
	}
	return n, nil
}

// cut removes records.
func (t *tx) cut(rs []Record) error {
	for i, r := range rs {
		a := authorOf(r.Origin, r.Run)
		gone, err := t.entity(auditRef(a, r.Seq))
		if err != nil {
			return err
		}
		if gone.life() == 0 {
			if err := t.write(auditRef(a, r.Seq), cell{life: 2}); err != nil {
				return err
			}
		}
		if i+1 < len(rs) && rs[i+1].Origin == r.Origin && rs[i+1].Run == r.Run {
			continue
		}
		at := refOf(kindAuditCut, bytes.Clone(a[:]))
		e, err := t.entity(at)
		if err != nil {
			return err
		}
		if c := e.get(fieldCut); c != nil && c.rank >= r.Seq {
			continue
		}
		if err := t.write(at, cell{field: fieldCut, rank: r.Seq, value: r.Hash[:]}); err != nil {
			return err
		}
	}
	return nil
}
