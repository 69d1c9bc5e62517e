package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
)

// maxAnswer bounds what a client reads of an answer, in bytes.
const maxAnswer = 256 << 20

// ErrNotRunning is returned by a [Client] when nobody listens on its socket.
var ErrNotRunning = errors.New("no gateway is running here")

// ErrNotAllowed is returned by a [Client] whose user may not use the socket.
var ErrNotAllowed = errors.New("the gateway's socket belongs to another user")

// Client is a [Service] at the other end of a unix socket.
type Client struct {
	socket string
	http   http.Client
	// OnStored, if it is not nil, is told of each change on how many gateways it is. It is set before the first request.
	OnStored func(Stored)
}

var _ Service = (*Client)(nil)

// NewClient returns a client of the gateway that listens on the unix socket at
// path. It connects with the first request.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status implements [Clusters].
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// ClusterKey implements [Clusters].
func (c *Client) ClusterKey(ctx context.Context) (ClusterKey, error) {
	return call[ClusterKey](ctx, c, http.MethodGet, "/v1/key", nil)
}

// ListGateways implements [Gateways].
func (c *Client) ListGateways(ctx context.Context) ([]Gateway, error) {
	return call[[]Gateway](ctx, c, http.MethodGet, "/v1/gateways", nil)
}

// Drain implements [Gateways].
func (c *Client) Drain(ctx context.Context, d Drain) (Drained, error) {
	return call[Drained](ctx, c, http.MethodPost, "/v1/drain", d)
}

// ListDevices implements [Devices].
func (c *Client) ListDevices(ctx context.Context) ([]Device, error) {
	return call[[]Device](ctx, c, http.MethodGet, "/v1/devices", nil)
}

// ShowDevice implements [Devices].
func (c *Client) ShowDevice(ctx context.Context, ref string) (Device, error) {
	return call[Device](ctx, c, http.MethodGet, device(ref), nil)
}

// AddDevice implements [Devices].
func (c *Client) AddDevice(ctx context.Context, d NewDevice) (Enrolment, error) {
	return call[Enrolment](ctx, c, http.MethodPost, "/v1/devices", d)
}

// ChangeDevice implements [Devices].
func (c *Client) ChangeDevice(ctx context.Context, ref string, ch DeviceChange) (Device, error) {
	return call[Device](ctx, c, http.MethodPatch, device(ref), ch)
}

// RekeyDevice implements [Devices].
func (c *Client) RekeyDevice(ctx context.Context, ref string, k NewKey) (Enrolment, error) {
	return call[Enrolment](ctx, c, http.MethodPost, device(ref)+"/rekey", k)
}

// RemoveDevice implements [Devices].
func (c *Client) RemoveDevice(ctx context.Context, ref string) error {
	_, err := call[none](ctx, c, http.MethodDelete, device(ref), nil)
	return err
}

func device(ref string) string { return "/v1/devices/" + url.PathEscape(ref) }

// call sends in as JSON, if it is not nil, and decodes the answer. A request whose connection breaks is sent once more.
func call[Out any](ctx context.Context, c *Client, method, path string, in any) (out Out, err error) {
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return out, fmt.Errorf("encode request: %w", err)
		}
	}
	key := newKey()
	if len(body) > maxBody { // beyond what a gateway remembers; such requests change nothing when repeated
		key = ""
	}
	resp, err := c.ask(ctx, method, path, key, bytes.NewReader(body))
	if err != nil && dialing(err) == nil && ctx.Err() == nil {
		if again, err2 := c.ask(ctx, method, path, key, bytes.NewReader(body)); err2 == nil {
			resp, err = again, nil
		}
	}
	if resp, err = c.accept(resp, err); err != nil {
		return out, err
	}
	return answer[Out](resp)
}

// send asks once and returns an answer that is no refusal; its body is the caller's.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	resp, err := c.ask(ctx, method, path, "", body)
	return c.accept(resp, err)
}

// ask sends a request, under a key if it changes something and has one.
func (c *Client) ask(ctx context.Context, method, path, key string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gatemesh"+path, body)
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	if key != "" && method != http.MethodGet {
		req.Header.Set(KeyHeader, key)
	}
	return c.http.Do(req)
}

// accept makes errors of what did not answer or refused; else the body is the caller's.
func (c *Client) accept(resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		if s, ok := parseStored(resp.Header); ok && c.OnStored != nil {
			c.OnStored(s)
		}
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(e); err != nil || e.Message == "" {
		return nil, fmt.Errorf("the gateway at %s answered %s", c.socket, resp.Status)
	}
	return nil, e
}

// answer decodes an answer.
func answer[Out any](resp *http.Response) (out Out, err error) {
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, fmt.Errorf("answer of the gateway: %w", err)
	}
	return out, nil
}

// dialing returns the error of making the connection, if it is one: nothing was asked then.
func dialing(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return op
	}
	return nil
}

func (c *Client) explain(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %s", ErrNotAllowed, c.socket)
	}
	if op := dialing(err); op != nil {
		return fmt.Errorf("%w: %w", ErrNotRunning, op)
	}
	return fmt.Errorf("ask the gateway at %s: %w", c.socket, err)
}
