package mesh

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Application protocols (RFC 7301) that tell connections apart.
const (
	protoLink = "gatemesh-link/1"
	protoJoin = "gatemesh-join/1"

	protoClaim = "gatemesh-claim/1"
	protoLogon = "gatemesh-logon/1"
)

const handshakeTimeout = 5 * time.Second

// identity is a member's key as TLS 1.3 wants it: a certificate that it
// signed itself. Only the key counts; names and dates of certificates mean
// nothing here.
type identity struct {
	id   ID
	key  ed25519.PrivateKey
	cert tls.Certificate
}

func newIdentity(key ed25519.PrivateKey) (identity, error) {
	if len(key) != ed25519.PrivateKeySize {
		return identity{}, errors.New("key is not an Ed25519 private key")
	}
	public := key.Public().(ed25519.PublicKey)
	id := IDOf(public)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.String()},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 section 4.1.2.5: no end
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return identity{}, fmt.Errorf("make certificate: %w", err)
	}
	return identity{id, key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

func (i identity) public() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

// config returns the settings of both sides of a connection for protos.
func (i identity) config(protos ...string) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{i.cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protos,
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // there is no authority: VerifyConnection takes the key, Admit decides
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := peerKey(s)
			return err
		},
	}
}

// peerKey returns the key that the other side has proven.
func peerKey(s tls.ConnectionState) (ed25519.PublicKey, error) {
	if len(s.PeerCertificates) != 1 {
		return nil, fmt.Errorf("peer shows %d certificates", len(s.PeerCertificates))
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("peer has no Ed25519 key")
	}
	return key, nil
}

// wire is a connection under TLS and the frames on it. One goroutine reads
// and one writes; anybody may close.
type wire struct {
	conn  *tls.Conn
	raw   net.Conn
	r     *bufio.Reader
	proto string
	key   ed25519.PublicKey // of the other side
}

// handshake makes raw a wire, as the client of protos[0] or a server of all
// of them. It closes raw if it fails.
func (i identity) handshake(ctx context.Context, raw net.Conn, client bool, protos ...string) (*wire, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var conn *tls.Conn
	if client {
		conn = tls.Client(raw, i.config(protos...))
	} else {
		conn = tls.Server(raw, i.config(protos...))
	}
	w, err := &wire{conn: conn, raw: raw}, conn.HandshakeContext(ctx)
	if err == nil {
		state := conn.ConnectionState()
		w.proto = state.NegotiatedProtocol
		w.key, err = peerKey(state)
		if err == nil && w.proto == "" {
			err = errors.New("no application protocol")
		}
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	w.r = bufio.NewReaderSize(conn, 16<<10)
	return w, nil
}

// close ends both directions at once. TLS's own farewell is left out: it
// could block, and ours are frames.
func (w *wire) close() { w.raw.Close() }

// write sends frames in one go, within timeout.
func (w *wire) write(timeout time.Duration, frames ...[]byte) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	b := frames[0]
	if len(frames) > 1 {
		b = bytes.Join(frames, nil)
	}
	_, err := w.conn.Write(b)
	return err
}

// read returns the next frame of at most limit bytes. A timeout of zero means
// for ever.
func (w *wire) read(limit int, timeout time.Duration) (kind, []byte, error) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return 0, nil, err
	}
	return readFrame(w.r, limit)
}

// refuse tells the other side why not and closes.
func (w *wire) refuse(code reason, text string) {
	w.refuseWith(refusal{Code: code, Text: clipText(text, maxReason)})
}

// refuseFor refuses with the text of err: what was decided if it is a
// RefusedError, else what went wrong.
func (w *wire) refuseFor(err error) {
	r := refusal{Code: refusedFailed, Text: err.Error()}
	var no *RefusedError
	if errors.As(err, &no) {
		r = refusal{refusedPolicy, no.Reason, no.Hint}
	}
	r.Text, r.Hint = clipText(r.Text, maxReason), clipText(r.Hint, maxReason)
	w.refuseWith(r)
}

func (w *wire) refuseWith(r refusal) {
	// The refusal is a courtesy: if it does not arrive, the end of the
	// connection says the same.
	_ = w.write(time.Second, encode(kindRefuse, r))
	w.finish()
}

// finish closes once the other side has read what was written. Closing with
// unread bytes would make the operating system reset the connection, and the
// last frame could be lost with it.
func (w *wire) finish() {
	w.closeWrite()
	_ = w.raw.SetReadDeadline(time.Now().Add(farewellTimeout))
	var b [512]byte
	for range 64 {
		if _, err := w.raw.Read(b[:]); err != nil {
			break
		}
	}
	w.close()
}

// closeWrite ends our direction.
func (w *wire) closeWrite() {
	if half, ok := w.raw.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
