package mesh

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"
)

// A newcomer logs on at a member as an administrator, and is given what it joins with. It has no secret in
// common with the member but the password, so whoever sits between them could read that: the newcomer must know whom
// it talks to before.

const (
	maxUser      = 64
	maxPassword  = 256
	maxGrant     = 16 << 10
	grantLimit   = maxGrant + 1<<10
	logonTimeout = 25 * time.Second // for the member to decide
)

// LogonConfig is what a newcomer logs on with.
type LogonConfig struct {
	Key            ed25519.PrivateKey // ours
	Member         ID                 // nobody else is sent anything
	Name, Version  string
	User, Password string  // at most 64 and 256 bytes
	Network        Network // nil means System
}

// logonBody is the body of kindLogon.
type logonBody struct {
	ProtoMin uint   `cbor:"1,keyasint"`
	ProtoMax uint   `cbor:"2,keyasint"`
	Name     string `cbor:"3,keyasint,omitempty"`
	Version  string `cbor:"4,keyasint,omitempty"`
	User     string `cbor:"5,keyasint"`
	Password string `cbor:"6,keyasint"`
}

// grantBody is the body of kindGrant.
type grantBody struct {
	Data []byte `cbor:"1,keyasint"`
}

func parseLogonBody(body []byte) (logonBody, error) {
	var l logonBody
	if err := decode(body, &l); err != nil {
		return logonBody{}, err
	}
	if len(l.Name) > maxNameLen || len(l.Version) > maxNameLen || len(l.User) > maxUser || len(l.Password) > maxPassword ||
		l.ProtoMin > l.ProtoMax {
		return logonBody{}, fmt.Errorf("%w: log-on out of bounds", errFrame)
	}
	return l, nil
}

func parseGrantBody(body []byte) (grantBody, error) {
	var g grantBody
	if err := decode(body, &g); err != nil {
		return grantBody{}, err
	}
	if len(g.Data) > maxGrant {
		return grantBody{}, fmt.Errorf("%w: grant out of bounds", errFrame)
	}
	return g, nil
}

// Logon logs on at the member at addr and returns what its Config.Logon gave. Errors: *OtherError, ErrNotMember if
// nobody can log on there, *RefusedError, and those of the network wrapped.
func Logon(ctx context.Context, cfg LogonConfig, addr netip.AddrPort) ([]byte, error) {
	if len(cfg.User) > maxUser || len(cfg.Password) > maxPassword || !utf8.ValidString(cfg.User+cfg.Password) {
		return nil, fmt.Errorf("log on: a name has at most %d bytes of UTF-8, a password %d", maxUser, maxPassword)
	}
	var grant []byte
	err := converse(ctx, cfg.Key, cfg.Network, addr, protoLogon, func(w *wire, _ identity) error {
		if IDOf(w.key) != cfg.Member {
			return &OtherError{Want: cfg.Member, Got: IDOf(w.key)}
		}
		err := w.write(joinStep, encode(kindLogon, logonBody{
			ProtoMin: protoMin, ProtoMax: protoMax, Name: clip(cfg.Name), Version: clip(cfg.Version),
			User: cfg.User, Password: cfg.Password,
		}))
		if err != nil {
			return fmt.Errorf("send log-on: %w", err)
		}
		body, err := w.expect(kindGrant, grantLimit)
		if err != nil {
			return err
		}
		g, err := parseGrantBody(body)
		grant = g.Data
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("log on at %s: %w", addr, err)
	}
	return grant, nil
}

// serveLogon answers a newcomer that logs on. It holds its place among the strangers while its password is checked.
func (m *Mesh) serveLogon(ctx context.Context, s *stranger, w *wire) error {
	k, body, err := w.read(helloLimit, handshakeTimeout)
	if err != nil {
		return fmt.Errorf("read log-on: %w", err)
	}
	if k != kindLogon {
		return fmt.Errorf("%w: kind %d instead of a log-on", errFrame, k)
	}
	l, err := parseLogonBody(body)
	switch {
	case err != nil:
		return err
	case l.ProtoMin > protoMax || l.ProtoMax < protoMin:
		w.refuse(refusedVersion, "")
		return nil
	case m.cfg.Logon == nil:
		w.refuse(refusedNobody, "")
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, logonTimeout)
	defer cancel()
	grant, err := m.cfg.Logon(limited, Newcomer{Key: w.key, Name: l.Name, Version: l.Version, Addr: s.from}, l.User,
		l.Password)
	if err != nil {
		w.refuseFor(err)
		return fmt.Errorf("log on: %w", err)
	}
	if err := w.write(joinStep, encode(kindGrant, grantBody{grant})); err != nil {
		return fmt.Errorf("send grant: %w", err)
	}
	w.finish()
	return nil
}
