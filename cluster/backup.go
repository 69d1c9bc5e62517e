package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// A backup is a stream: 16 bytes of magic, then frames.
//
//	length   4 bytes, big-endian: of the body
//	kind     1 byte
//	body     h  CBOR: format, cluster, date, version of the program; the first frame
//	         p  a part of a delta from nothing, as Delta yields it
//	         e  CBOR: counts, SHA-256 of all that stands before this frame; the last frame
//
// It holds cells only: no identity, incarnation, device clocks or anything else
// that belongs to one disk. It is not encrypted.
const (
	backupMagic  = "gatemesh backup\n"
	backupFormat = 1
	maxBackup    = 16 << 30 // bytes

	frameHead = 'h'
	framePart = 'p'
	frameEnd  = 'e'
)

// Backup says what a backup holds.
type Backup struct {
	Cluster [16]byte
	Made    time.Time // to the second
	Version string    // of the program that made it; at most 255 bytes
	Cells   uint64
	Devices uint64 // alive
}

type wireBackupHead struct {
	Format  uint64 `cbor:"1,keyasint"`
	Cluster []byte `cbor:"2,keyasint"`
	Made    int64  `cbor:"3,keyasint"` // Unix seconds
	Version string `cbor:"4,keyasint,omitempty"`
}

type wireBackupEnd struct {
	Cells   uint64 `cbor:"1,keyasint"`
	Devices uint64 `cbor:"2,keyasint"`
	Sum     []byte `cbor:"3,keyasint"`
}

// count takes the cells of a part into account.
func (b *Backup) count(p part) {
	b.Cells += uint64(len(p.records))
	for _, r := range p.records {
		if r.ref.isDevice() && r.cell.field == "" && r.cell.life%2 == 1 {
			b.Devices++
		}
	}
}

// Backup writes one committed state. b says whose it is; the counts are filled in. Writing
// goes on at the store meanwhile, but Close waits. An error leaves a stream
// that no reader takes.
func (s *Store) Backup(w io.Writer, b Backup) (Backup, error) {
	b.Cells, b.Devices = 0, 0
	bw := &backupWriter{w: w, sum: sha256.New()}
	bw.raw([]byte(backupMagic))
	bw.frame(frameHead, must(encoder.Marshal(wireBackupHead{backupFormat, b.Cluster[:], b.Made.Unix(), b.Version})))
	for data, err := range s.Delta(nil) {
		if err != nil {
			return b, err
		}
		p, err := decodePart(data)
		if err != nil {
			return b, err
		}
		b.count(p)
		bw.frame(framePart, data)
		if bw.err != nil {
			break
		}
	}
	bw.frame(frameEnd, must(encoder.Marshal(wireBackupEnd{b.Cells, b.Devices, bw.sum.Sum(nil)})))
	if bw.err != nil {
		return b, fmt.Errorf("write backup: %w", bw.err)
	}
	return b, nil
}

// backupWriter keeps the sum of what it wrote, and the first error.
type backupWriter struct {
	w   io.Writer
	sum hash.Hash
	err error
}

func (w *backupWriter) raw(b []byte) {
	if w.err == nil {
		w.sum.Write(b)
		_, w.err = w.w.Write(b)
	}
}

func (w *backupWriter) frame(kind byte, body []byte) {
	head := binary.BigEndian.AppendUint32(make([]byte, 0, 5), uint32(len(body))) //nolint:gosec // at most maxPart
	w.raw(append(head, kind))
	w.raw(body)
}

// BackupError says what is wrong with a backup, and where.
type BackupError struct {
	Offset int64  // of the frame, in bytes of the stream
	Reason string // "is cut short", …
	Newer  bool   // made by a newer version
}

func (e *BackupError) Error() string {
	return fmt.Sprintf("backup %s at byte %d", e.Reason, e.Offset)
}

// ReadBackup reads a backup and calls part, if it is not nil, with the parts in
// order, each checked; whether the whole is sound is known only when it returns. It returns
// a *BackupError, an error of r or one of part. The part's slice belongs to part.
func ReadBackup(r io.Reader, part func([]byte) error) (Backup, error) {
	br := &backupReader{r: bufio.NewReaderSize(io.LimitReader(r, maxBackup), 64<<10), sum: sha256.New()}
	b, err := br.read(part)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = br.fault("is cut short")
	}
	return b, err
}

type backupReader struct {
	r      *bufio.Reader
	sum    hash.Hash
	offset int64 // of the frame that is being read
	next   int64
}

func (r *backupReader) fault(reason string) error {
	return &BackupError{Offset: r.offset, Reason: reason}
}

// raw reads n bytes. The slice is the caller's.
func (r *backupReader) raw(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, err
	}
	r.sum.Write(b)
	r.next += int64(n)
	return b, nil
}

// frame reads one frame.
func (r *backupReader) frame() (kind byte, body []byte, err error) {
	r.offset = r.next
	head, err := r.raw(5)
	if err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head)
	if n > maxPart {
		return 0, nil, r.fault("has a frame beyond its limit")
	}
	body, err = r.raw(int(n))
	return head[4], body, err
}

func (r *backupReader) read(part func([]byte) error) (b Backup, err error) {
	magic, err := r.raw(len(backupMagic))
	if err != nil {
		return b, err
	}
	if string(magic) != backupMagic {
		return b, r.fault("has no beginning of a gatemesh backup")
	}
	if b, err = r.head(); err != nil {
		return b, err
	}
	for {
		sum := r.sum.Sum(nil)
		kind, body, err := r.frame()
		switch {
		case err != nil:
			return b, err
		case kind == frameEnd:
			return b, r.end(body, b, sum)
		case kind != framePart:
			return b, r.fault("has a frame of an unknown kind")
		}
		p, err := decodePart(body)
		if err != nil {
			return b, r.fault("has a damaged part (" + err.Error() + ")")
		}
		b.count(p)
		if part == nil {
			continue
		}
		if err := part(body); err != nil {
			return b, err
		}
	}
}

func (r *backupReader) head() (Backup, error) {
	kind, body, err := r.frame()
	if err != nil {
		return Backup{}, err
	}
	var h wireBackupHead
	if kind != frameHead || decoder.Unmarshal(body, &h) != nil {
		return Backup{}, r.fault("has no header")
	}
	if h.Format > backupFormat {
		return Backup{}, &BackupError{r.offset, fmt.Sprintf("has format %d, this version knows formats up to %d,", h.Format, backupFormat), true}
	}
	if len(h.Cluster) != 16 || len(h.Version) > 255 {
		return Backup{}, r.fault("has a damaged header")
	}
	return Backup{Cluster: [16]byte(h.Cluster), Made: time.Unix(h.Made, 0).UTC(), Version: h.Version}, nil
}

// end checks the last frame against what was read before it.
func (r *backupReader) end(body []byte, b Backup, sum []byte) error {
	var e wireBackupEnd
	if decoder.Unmarshal(body, &e) != nil {
		return r.fault("has a damaged end")
	}
	if string(e.Sum) != string(sum) || e.Cells != b.Cells || e.Devices != b.Devices {
		return r.fault("was altered: its checksum is another")
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err != nil {
			return err
		}
		return r.fault("goes on after its end")
	}
	return nil
}

// Restore merges a backup that was read to its end before. Cells that this store
// has or once had change nothing: what is newer here stands, and what was deleted
// since stays deleted, also when the marker of the deletion was collected. It
// blocks until Run works. ctx ends it between two parts; what was merged
// until then stays and does no harm.
func (s *Store) Restore(ctx context.Context, r io.Reader) (Backup, error) {
	b, err := ReadBackup(r, func(data []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return s.restorePart(data)
	})
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return b, err
}

// restorePart merges a part, but not as a member's: what is wanted from a member is not in it.
func (s *Store) restorePart(data []byte) error {
	p, err := decodePart(data)
	if err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	_, err = s.mergePart(p)
	return err
}
