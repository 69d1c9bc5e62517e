package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
	"gatemesh/vpn"
)

// Node is one gateway.
type Node struct {
	cfg     Config
	log     *slog.Logger
	key     ed25519.PrivateKey
	self    cluster.Node
	name    string // with which it started, settled in Run; offers says what it is called now
	started time.Time
	store   *cluster.Store
	closers []closer

	remains string // id of the cluster of which a join that was cut short left parts, in hex; "": not known, or none did

	waiting   waiting
	admitting sync.Mutex // held while one newcomer is counted and admitted

	logons    *logonGuesses
	strangers *mesh.StrangerLog  // what anybody may give cause for
	called    context.Context    // ends when Run is to end
	giveUp    context.CancelFunc // ends called
	resets    atomic.Bool        // there is a note of what the next Node is to do
	departed  atomic.Bool        // this gateway has left its cluster

	live  atomic.Pointer[parts] // nil until the cluster is known
	offer atomic.Pointer[offer] // nil until its entry is written

	events   listeners
	stopping chan struct{} // closed when the control socket closes
}

// parts is what exists once the cluster is known. Nothing in it is replaced.
type parts struct {
	facts    facts
	pub      cluster.Key // the cluster's WireGuard public key
	plane    string      // DataplaneTUN or DataplaneUserspace
	sessions *cluster.Sessions
	vpn      *vpn.Gateway
	mesh     *mesh.Mesh
	steering *steering
	peers    *peers
	orphans  *orphans
	exports  *exports
	forwards *forwards
	strays   *strays
	changes  chan struct{} // wakes reconcile
	keys     chan struct{} // wakes turnKeys; capacity 1
	hints    chan struct{} // wakes announce; capacity 1
	exile    *exile
	recount  atomic.Bool // reconcile is to count the instances
	dirty    dirty
	ready    readiness
	draining atomic.Bool   // takes no new devices and gives away those it has
	leave    chan struct{} // wakes giveAway; capacity 1
	retired  atomic.Bool   // it has become a standby and gives its devices to active gateways
	full     atomic.Bool   // see fullness; written by the heartbeat

	lags      *lags
	alarms    alarms
	twins     twins
	repairing sync.Mutex // held by the one exchange of cells that should be equal

	departing atomic.Bool // the process ends: no device is recalled
	resetting atomic.Bool // this gateway is leaving its cluster

	rows    sync.Mutex                // makes reading and writing our rows of the session table one step, and guards the fields below
	stances map[cluster.Key]stance    // but serving and away, which the rows tell
	places  *places                   // where our devices are
	kept    map[cluster.Key]time.Time // devices that no heir reached: not given away before
}

type closer struct {
	name  string
	close func() error
}

// New opens the data directory. What it opened is freed by Close, also when
// New fails.
func New(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Log, started: cfg.Now(), stopping: make(chan struct{}),
		logons: newLogonGuesses(), strangers: mesh.NewStrangerLog(cfg.Log),
	}
	n.called, n.giveUp = context.WithCancel(context.Background())
	n.onClose("run", func() error { n.giveUp(); return nil })
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if onTrial(cfg.Data) {
		n.cfg = n.cfg.Reset()
	}
	return n, nil
}

// open opens what lies in the data directory, after what a note says was done to it.
func (n *Node) open() (err error) {
	if err := os.MkdirAll(n.cfg.Data, 0o700); err != nil {
		return unwritable(err)
	}
	note, due, err := readReset(n.cfg.Data)
	if err != nil {
		return err
	}
	if err := n.openStore(); err != nil || !due {
		return err
	}
	if err := n.store.Close(); err != nil { // nobody else had it open
		return fmt.Errorf("close store: %w", err)
	}
	if err := finishReset(n.cfg.Data, note); err != nil {
		return unwritable(err)
	}
	return n.openStore()
}

// openStore opens the store of the gateway whose key the directory holds.
func (n *Node) openStore() (err error) {
	cfg := &n.cfg
	n.key, err = loadIdentity(cfg.Data)
	var path *fs.PathError
	if errors.As(err, &path) {
		return unwritable(err)
	} else if err != nil {
		return err
	}
	store := filepath.Join(cfg.Data, storeDir) // closed to others, whatever the mode of the files in it
	if err := errors.Join(os.MkdirAll(store, 0o700), os.Chmod(store, 0o700)); err != nil {
		return unwritable(err)
	}
	n.self = cluster.NodeOf(n.public())
	n.store, err = cluster.Open(cluster.Config{
		Dir: store, Node: n.self, Now: cfg.Now,
		Log: n.log.With("component", "cluster"),
	})
	if err != nil {
		return n.explainStore(err)
	}
	n.onClose("store", n.store.Close)
	if err := writeOwner(cfg.Data, cfg.Name); err != nil && !n.store.Room().ReadOnly {
		return unwritable(err)
	}
	return nil
}

// explainStore adds what to do about a store that does not open.
func (n *Node) explainStore(err error) error {
	var format *cluster.FormatError
	var inUse *cluster.InUseError
	var full *cluster.ReadOnlyError
	var damage *cluster.DamageError
	var path *fs.PathError
	switch {
	case errors.As(err, &full):
		return hintf(fmt.Sprintf("make room on the volume of %s, then start again", n.cfg.Data), "%w", err)
	case errors.As(err, &inUse):
		return hintf("stop it first, or use another --data directory", "data directory %s is in use by %s", n.cfg.Data, readOwner(n.cfg.Data))
	case errors.As(err, &format):
		return hintf("use the gatemesh that wrote it, or a newer one", "%w", err)
	case errors.Is(err, fs.ErrPermission):
		return unwritable(err)
	case errors.As(err, &damage):
		return hintf("nothing was changed; put back a backup, or move the directory away and start with an empty one "+
			"and --key or --join: the other gateways have the rest", "%w", err)
	case errors.As(err, &path):
		return unwritable(err)
	}
	return fmt.Errorf("open store in %s: %w", n.cfg.Data, err)
}

func unwritable(err error) error {
	return hintf("use --data with a directory that this user may write", "data directory: %w", err)
}

// public returns the gateway's own public key.
func (n *Node) public() ed25519.PublicKey { return n.key.Public().(ed25519.PublicKey) }

// onClose registers what Close frees, last first.
func (n *Node) onClose(name string, f func() error) {
	n.closers = append(n.closers, closer{name, f})
}

// Close frees everything. It may be called twice; Run must have returned.
func (n *Node) Close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		if err := n.closers[i].close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", n.closers[i].name, err))
		}
	}
	n.closers = nil
	return errors.Join(errs...)
}

// Run is the life of the gateway: it finds or begins its cluster, takes
// devices, and returns when ctx ends (nil then), a part fails, or it gives up its cluster (ErrReset, or
// ErrLeft if it is to stay stopped).
func (n *Node) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(cluster.WithActor(context.WithoutCancel(ctx), itself))
	defer stop()
	g, gctx := errgroup.WithContext(inner)
	g.Go(func() error { return n.store.Run(gctx) })
	g.Go(func() error { return n.run(gctx, g) })
	g.Go(func() error {
		defer stop()
		return n.depart(gctx, n.called.Done())
	})
	release := context.AfterFunc(ctx, n.giveUp)
	err := g.Wait()
	release()
	if ctx.Err() == nil && n.resets.Load() && (err == nil || errors.Is(err, context.Canceled)) {
		if n.departed.Load() {
			return ErrLeft
		}
		return ErrReset
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// run is the wiring, one straight line on purpose.
func (n *Node) run(ctx context.Context, g *errgroup.Group) error {
	if err := n.probePorts(); err != nil {
		return err
	}
	if err := n.chooseName(); err != nil {
		return err
	}
	socket, err := n.listenSocket()
	if err != nil {
		return err
	}
	n.onClose("socket", socket.Close)
	g.Go(func() error { return n.serveAPI(ctx, socket) })

	came, err := n.arrive(ctx)
	if err != nil {
		return err
	}
	if err := n.chooseName(); err != nil { // again: the others' names are known now
		return err
	}
	p := &parts{
		facts:    came.facts,
		sessions: cluster.NewSessions(n.self, n.store.Stamp(), n.log.With("component", "sessions")),
		steering: newSteering(n.self, n.store.Stamp()),
		peers:    newPeers(n.self),
		orphans:  newOrphans(),
		exports:  newExports(),
		forwards: newForwards(),
		strays:   newStrays(),
		lags:     newLags(),
		stances:  map[cluster.Key]stance{},
		places:   newPlaces(),
		kept:     map[cluster.Key]time.Time{},
		leave:    make(chan struct{}, 1),
		changes:  make(chan struct{}, 1),
		keys:     make(chan struct{}, 1),
		hints:    make(chan struct{}, 1),
		exile:    newExile(),
	}
	if p.pub, err = publicKey(came.wireguard); err != nil {
		return err
	}

	// Before the data plane, whose inner addresses are none to be reached at.
	admission, _, err := n.store.Admitted(n.self)
	if err != nil {
		return fmt.Errorf("read own admission: %w", err)
	}
	gossip, err := n.gossipKeys()
	if err != nil {
		return err
	}
	p.mesh, err = mesh.New(mesh.Config{
		Key: n.key, Name: n.name, Cluster: came.cluster, GossipKey: gossip[0],
		Secrets: n.secrets,
		Listen:  n.cfg.Mesh, Network: n.cfg.Network,
		States:  map[string]mesh.State{"config": n.store, "sessions": p.sessions},
		Admit:   func(k ed25519.PublicKey, voucher []byte) error { return n.admit(came.facts, k, voucher) },
		Voucher: admission.Statement,
		Welcome: func(ctx context.Context, c mesh.Newcomer) ([]byte, error) { return n.welcome(ctx, p, c) },
		Claims:  newClaimable(n, p), Logon: n.onLogon,
		Beat: n.beat(p), Book: n.book, Events: n.onMesh(p),
		Log: n.log.With("component", "mesh"),
	})
	if err != nil {
		return n.explainPort(err)
	}
	n.onClose("mesh", p.mesh.Close)
	if err := cmp.Or(p.mesh.SetGossipKeys(gossip), n.bar(p)); err != nil {
		return err
	}
	dev, plane, err := n.openDataplane(came.facts)
	if err != nil {
		return err
	}
	p.plane = plane

	port, _ := n.cfg.listenPort()
	p.vpn, err = vpn.New(vpn.Config{
		PrivateKey: came.wireguard, Port: port, Bind: n.cfg.Bind, TUN: dev,
		Lookup: n.lookup(p), Steer: n.steer(p), Notify: n.onSession(p),
		Forward: n.forward(p), Unknown: p.strays.put,
		// Never before what any label sent was made from, also across a restart with the clock set back.
		Now: n.store.Now, Log: n.log.With("component", "vpn"),
	})
	if err != nil {
		return n.explainPort(err)
	}
	n.onClose("vpn", p.vpn.Close)

	p.mesh.Handle(kindInitiation, n.onInitiation(p))
	p.mesh.Handle(kindSessions, n.onSessionsCall(p))
	p.mesh.Handle(kindHandover, n.onHandover(p))
	p.mesh.Handle(kindKnock, n.onKnock(p))
	p.mesh.Handle(kindFloors, n.onFloors(p))
	p.mesh.Handle(kindBuckets, n.onBuckets)
	p.mesh.Handle(kindPage, n.onPage)
	p.mesh.Handle(kindRepair, n.onRepair(p))
	p.mesh.Handle(kindPacket, n.onPacket(p))
	p.mesh.Handle(kindSpend, n.onSpend)
	p.mesh.Handle(kindDatagram, n.onDatagram(p))
	p.mesh.Handle(kindReach, n.onReach)

	p.sessions.Subscribe(n.onForeign(p))
	n.store.Subscribe(n.onChange(p))
	unsaid := n.announceSelf(ctx, p)
	if unsaid != nil && !errors.Is(unsaid, cluster.ErrReadOnly) {
		return unsaid
	}
	n.live.Store(p)
	public := n.offers().Public

	if n.cfg.Started != nil {
		started := Started{Begun: came.begun, Joined: came.joined, Mesh: p.mesh.Addr(), Public: public}
		if key, err := n.clusterKey(); err == nil {
			started.Key = key
		}
		n.cfg.Started(started)
	}
	n.log.Info("gateway starts", "name", n.name, "id", n.self, "version", n.cfg.Version,
		"dataplane", plane, "listen", p.vpn.Port(), "mesh", p.mesh.Addr(), "public", public,
		"begun", came.begun, "joined", came.joined)

	p.mesh.Connect(came.seeds)
	g.Go(func() error { return p.mesh.Run(ctx) })
	g.Go(func() error { return n.serveDevices(ctx, p) })
	g.Go(func() error { return n.reconcile(ctx, p) })
	g.Go(func() error { return n.takeOver(ctx, p) })
	g.Go(func() error { return n.handOver(ctx, p) })
	g.Go(func() error { return n.giveAway(ctx, p) })
	g.Go(func() error { return n.guide(ctx, p) })
	g.Go(func() error { return n.keepClocks(ctx, p) })
	g.Go(func() error { return n.watchSync(ctx, p) })
	g.Go(func() error { return n.collect(ctx) })
	g.Go(func() error { return n.comeBack(ctx, p) })
	g.Go(func() error { return n.trimAudit(ctx) })
	g.Go(func() error { return n.trimTokens(ctx) })
	g.Go(func() error { return n.announce(ctx, p) })
	g.Go(func() error { return n.keepPlace(ctx, p) })
	g.Go(func() error { return n.watchTwins(ctx, p) })
	g.Go(func() error { return n.turnKeys(ctx, p) })
	g.Go(func() error { return n.heedExile(ctx, p) })
	g.Go(func() error { return n.runNext(ctx) })
	if unsaid != nil {
		g.Go(func() error { return n.announceLater(ctx, p) })
	}
	g.Go(func() error { return n.becomeReady(ctx, p, came) })
	return nil
}

// readyWait bounds how long a gateway waits to hear from a peer before it
// takes devices: alone it serves too.
const readyWait = 2 * time.Second

// becomeReady lets devices in once what the cluster knows is known here.
func (n *Node) becomeReady(ctx context.Context, p *parts, came arrival) error {
	wait := readyWait
	if others, err := n.store.Admissions(); err == nil && len(others) < 2 {
		wait = 0 // there is nobody to hear from
	}
	if err := p.peers.waitSynced(ctx, wait); err != nil {
		return nil //nolint:nilerr // the gateway is being stopped
	}
	n.tellUncounted()
	n.countInstances(p)
	p.ready.joined.Store(true)
	n.tell(api.Event{Kind: api.EventReady, GatewayID: n.self.String()})
	n.log.Info("gateway ready", "name", n.name, "cluster", clusterName(came.facts.cluster))
	if n.cfg.Ready != nil {
		n.cfg.Ready()
	}
	return nil
}

// announce tells the LAN that a member is here, to the holders of each key that
// holds.
func (n *Node) announce(ctx context.Context, p *parts) error {
	for ctx.Err() == nil {
		keys, err := n.clusterKeys()
		if err != nil {
			n.log.Warn("not announced on the LAN", "err", err)
		}
		under, stop := context.WithCancel(ctx)
		var g errgroup.Group
		for _, k := range keys {
			g.Go(func() error { n.announceUnder(under, p, k); return nil })
		}
		for same := true; ctx.Err() == nil && same; {
			select {
			case <-ctx.Done():
			case <-p.hints:
			}
			now, err := n.clusterKeys()
			same = err == nil && sameKeys(keys, now) || err != nil && len(keys) == 0
		}
		stop()
		_ = g.Wait()
	}
	return nil
}

// announceUnder announces this gateway until ctx ends. A LAN that cannot be
// told is no reason to stop: others can be given an address.
func (n *Node) announceUnder(ctx context.Context, p *parts, key ClusterKey) {
	cfg, err := n.find(key, p.mesh.Addr().Port())
	if err == nil {
		cfg.Cluster, cfg.Born = p.facts.cluster, n.born()
		err = mesh.Announce(ctx, cfg)
	}
	if err != nil && ctx.Err() == nil {
		n.log.Warn("not announced on the LAN; further gateways need --join", "err", err)
	}
}

// book lists every address at which a member was ever seen.
func (n *Node) book() []netip.AddrPort {
	gateways, err := n.store.Gateways()
	if err != nil {
		n.log.Error("read gateways", "err", err)
		return nil
	}
	var out []netip.AddrPort
	for _, g := range gateways {
		if gone, err := n.store.Departed(g.Node); g.Node != n.self && !gone && err == nil {
			out = append(out, g.Mesh...)
		}
	}
	return out
}
