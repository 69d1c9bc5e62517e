// Package vpn is the gateway's WireGuard engine: it knows how packets flow between devices and the
// network behind the gateway. It knows devices by public key, addresses and handshake clocks, which it is
// told by a [LookupFunc]. It does not know what a cluster is: who else could answer an initiation is the
// business of a [SteerFunc], who owns a device is told with [Gateway.Drop] and [Gateway.Initiate].
//
// It speaks the unchanged WireGuard protocol (J. A. Donenfeld, "WireGuard: Next Generation Kernel Network
// Tunnel", the whitepaper, revision e2da747) to stock clients.
//
//	UDP batch ─► type? ─4─► index table ─► open in place ─► replay ─► source allowed? ─► TUN batch   receive, one per socket
//	               └1,2,3─► mac1 ─► known? cookie? ─► fair queues ─► handshake worker ─► SteerFunc   work, few
//	                                    └ no, under load ─► cookie reply                             challenges, one
//	TUN batch ─► destination ─► session ─► counter ─► seal in place ─► fence ─► UDP batch            transmit, one per queue
//	deadlines of devices in a heap: retransmit, keepalive, new handshake, expiry                     sweep, one
//	events in the order in which they happened ─► Notify                                             notify, one
//
// # Sessions
//
// An enrolled device costs nothing here until it knocks. Its state is made by its first accepted initiation,
// or by Initiate, and ends [RejectAfterTime] × 3 after its last keys were made, when it was dropped, or when
// a handshake that had no session behind it was given up.
//
//	             initiation accepted                 first transport packet
//	(nothing) ───────────────────────► unconfirmed ───────────────────────► confirmed ◄─┐ rekey
//	     │         response sent to            │ 180 s                          │  │ │  │
//	     │         its candidate address       ▼                                │  │ └──┘
//	     │                                 (nothing)                            │  │
//	     │  Initiate                           ▲ 90 s                           │  │ 180 s: keys erased, address known
//	     └──────────────────► initiating ──────┘                                │  ▼
//	                             └── response authenticated ──► confirmed       │ quiet ── data from TUN ─► initiating
//	                                                                            ▼  │ 540 s
//	                                                     Drop, Refresh ──► (nothing) ◄┘
//
// The source of an unconfirmed initiation is only a candidate: the response goes there, while data keeps
// going to the confirmed address until the first packet that proves possession of the new keys, from
// wherever it comes. A replayed initiation can therefore divert nothing.
//
// # Floods
//
// An initiation is refused where that costs least: without the right mac1 in the goroutine that received it, before it
// takes anybody's place; under load without a cookie before any X25519; with the key of nobody after one; with a proof
// that is false or a timestamp that is not new after at most two, before SteerFunc and before the three of the response.
//
//	received ─► mac1 ─► answers to us, connected devices' addresses ─► ┐ sources take turns,
//	                ├─► others, under load only with a cookie ───────► ├ who has most waiting ─► one X25519: device ─► Lookup
//	                └─► handed over by another gateway ──────────────► ┘ loses when full          ─► (one, kept) proof, TAI64N
//	                                                                                              ─► SteerFunc ─► three: response
//
// Devices behind one address have a place each under load, by port. A device that others name is never locked out: what
// a false proof takes is kept for the next one, which then costs what an unknown key costs. Cookies are the same at
// all gateways of a cluster without a word between them.
//
// # Fences
//
// Handshake and transport messages leave only before the deadline last given to [Gateway.Allow]. It is read
// after sealing, once per batch, so a process that was frozen says nothing when it thaws. [Gateway.Slept] tells it, and
// the age of keys, what the monotonic clock of a suspended host has missed.
//
// # Two paths of packets
//
// On Linux a gateway has a shard per core, up to eight: a socket of each address family (SO_REUSEPORT) and a queue of
// the TUN (IFF_MULTI_QUEUE), with a goroutine each. The kernel keeps a device's datagrams on one shard and sends
// a flow's packets out by the queue that its answers came in by; a session that two shards see is safe, since all that
// they share of it is behind its keypairs' mutexes or atomic. Nothing is copied between buffers but once: super-packets
// of the TUN into the buffer that they are split and sealed in.
//
//	UDP_GRO: datagrams of one sender, side by side ─► opened in place ─► coalescer ─► vnet header, pieces ─► writev
//	UDP_SEGMENT: messages side by side ◄─ sealed in place ◄─ splitter ◄─ vnet header, super-packet ◄─ read
//
// Where the bind or the TUN does not offer that (other systems, the userspace stack, a kernel without vnet headers), its
// functions of the wireguard module are used, each edge for itself. Both paths go through the same functions between
// the edges. A super-packet is made only of packets that the kernel makes of it again (coalescer, which says
// where that is not so), and tests hold both ways against the module and the kernel.
//
// # Faults
//
// What the bind cannot take apart counts as malformed, other errors of the socket and the TUN are counted and tried again
// after 1 ms to 1 s. Run ends when one of the two is closed by somebody else, set down, or does nothing but fail;
// [Gateway.Reopen] and another Run go on with the same sessions:
//
//	New ─► Run ─► ErrTUN, ErrSocket ─► Reopen ─► Run ─► …
//
// A batch that segmentation offload cannot send to a device,
// because the path's MTU is smaller than its messages, is sent again message by message, as is all that follows until
// the next handshake.
//
// The store may change while a handshake worker goes by what it said before. So [Gateway.Refresh] raises a generation
// first, and a worker that finds it raised after its session can be found looks the device up again itself.
//
// # Keys and counters
//
// A sealing key and its counter live in one struct behind one mutex, the counter is taken and raised where the
// packet is sealed, and a key is erased under the same mutex: no (key, counter) pair is ever used twice. What an export
// gives away is cut off under that mutex, too, so this holds for all gateways together (part.go).
//
// # Hand-over
//
// A confirmed session can be exported to another gateway, its heir, which holds it in memory and takes it over when its
// caller has claimed the device: no handshake, no clock. What each rule is for is with its code.
//
//	owner                       heir
//	Export ──────── secret ───► Import ─► held ─ TakeOver ─► keys in use ─► knock: an empty message under each key
//	Floors ── each second ────► RaiseFloors                    │               the device follows its sender
//	final: Forward ─ packets ─► Deliver                        ├─ first message of the device ─► Confirmed, Imported
//	Mute, Drop ◄───── claim, confirmation ─────────────────────┘  1 to 3 s later, paced: new keys
//
// While the current keys are imported, a new source address is only a candidate, as what comes may be a replay of what
// the device sent to its former gateway. Receiver indices were drawn by that gateway: keypairs are chained per slot.
//
//	counters cut into ascending parts       part.go      TestParts, TestNoHistoryUsesACounterTwice, TestSessionMovesFourTimes, TestThirtyOneExports
//	imports only above all that was held    held.go      TestExportsLostDoubledAndLate, TestNoHistoryUsesACounterTwice
//	exports are bounded, strict, for one    export.go    TestImportRefusals, TestExportIsWhole, FuzzImport
//	keys erased with their lifetime         held.go      TestHeldKeysEndInTime, TestCloseErasesHeldKeys, TestHeldSessionsAreBounded
//	no handshake at a takeover              takeover.go  TestTakeoverWithoutHandshake, TestWrongVerdictAndReturn
//	the device fences its old owner         takeover.go  TestLivingOwnerIsFencedByTheDevice, TestFenceHoldsForOlderKeys, TestLastWordUnderOldKeys
//	knocks, and the sender's fence          takeover.go  TestKnocksUnderBothKeys, TestFenceHoldsKnocksBack
//	a replay diverts nothing                respond.go   TestReplayDivertsNothing
//	paced new keys                          takeover.go  TestRenewalsArePaced
//	floors before the replay filter         floor.go     TestFloors, FuzzRaiseFloors
//	colliding indices                       index.go     TestCollidingIndices
//	quiet: muted, or exported for good      quiet.go     TestMute, TestOwnInitiationEndsMute, TestPlannedHandOverLosesNothing, TestFailedHandOverIsTakenBack
//	alone: no handshake unless heard        quiet.go     TestAloneBeginsNothing
//	unknown indices, at a bounded rate      stranger.go  TestUnknownMessagesAreTold
//
// # Locks
//
// Locks are held for computation only, never across a channel, a callback or a system call; the exceptions are
// Config.Now, and waking a goroutine through a channel that has room or is skipped. Order, where two are held: device
// state (peer.mu), then any of index table, pending handshakes, allowed IPs, schedule, outbox, requests, vault, known
// addresses, kept remotes, a keypair's sealer or opener; vault, then opener. The map of devices (Gateway.mu) and the
// intake are held alone; so is Gateway.life, while Reopen opens the port.
//
// # Rules of the protocol
//
// docs/wireguard.md names every rule and constant, where it is kept, and the tests that hold it. TestRules keeps that
// page true.
package vpn
