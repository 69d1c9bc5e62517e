package vpn

import "time"

// Limits and timers of the protocol (whitepaper §6).
const (
	RekeyAfterMessages  = 1 << 60           // §6.2: a sender asks for new keys after that many messages
	RejectAfterMessages = 1<<64 - 1<<13 - 1 // §6.2: the first counter that is neither sent nor accepted
	RekeyAfterTime      = 120 * time.Second // §6.2: the initiator of a session that sends asks for new keys at this age
	RejectAfterTime     = 180 * time.Second // §6.2: keys of this age are neither used for sending nor accepted
	RekeyAttemptTime    = 90 * time.Second  // §6.4: a handshake is given up after this time
	RekeyTimeout        = 5 * time.Second   // §6.1: the least time between two initiations
	KeepaliveTimeout    = 10 * time.Second  // §6.5: data received and nothing sent for this long is answered by a keepalive
)

// Rules that the whitepaper leaves to implementations; values are those of the Linux kernel and wireguard-go.
const (
	rekeyTimeoutJitter = 334 * time.Millisecond                            // §6.1: added to RekeyTimeout against collisions
	maxAttempts        = int(RekeyAttemptTime / RekeyTimeout)              // retransmissions before giving up
	rekeyOnReceive     = RejectAfterTime - KeepaliveTimeout - RekeyTimeout // §6.2: an initiator that only receives asks at 165 s
	newHandshakeAfter  = KeepaliveTimeout + RekeyTimeout                   // §6.5: data sent and nothing heard
	eraseAfter         = 3 * RejectAfterTime                               // §6.3: everything of a quiet device is forgotten
	initiationInterval = time.Second / 50                                  // §5.1: accepted initiations per device
	cookieLifetime     = 120 * time.Second                                 // §5.4.7: use of a received cookie
	paddingMultiple    = 16                                                // §5.4.6
)

// Limits of this implementation.
const (
	defaultMTU    = 1420
	bufferSize    = 1<<16 - 1 + headerSize + tagSize + paddingMultiple
	queueSize     = 4096                   // received handshake messages waiting for a worker, per way to it
	loadThreshold = queueSize / 4          // initiations waiting from when on cookies are asked for
	loadLatch     = time.Second            // how long at least
	cookieQueue   = 8192                   // cookie replies waiting
	cookieRate    = 20_000                 // cookie replies per second
	maxRemotes    = 4096                   // devices that initiations named, of which secrets are kept; twice that
	maxRequests   = 1 << 17                // initiations waiting for a worker, one per device
	stagedPerPeer = 16                     // packets waiting for keys, per device
	stagedTotal   = 4096                   // the same, all devices
	fenceRetry    = 500 * time.Millisecond // what the fence held back is tried again after this time
	minBackoff    = time.Millisecond       // pause after the first failed read of the socket or the TUN; doubled up to
	maxBackoff    = time.Second            // this while they go on failing
	failsAtOnce   = 50 * time.Millisecond  // reading that waited longer before it failed had something to read
	failingFor    = 5 * time.Second        // reading that does nothing but fail for so long has failed for good
	warnInterval  = time.Minute            // the least time between two warnings of one reading goroutine
)
