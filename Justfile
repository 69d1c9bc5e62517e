# Each recipe is one line, so it can be typed without just.

default: check

build:
    go build -trimpath -o bin/gatemesh .

test:
    go test ./...

race:
    go test -race ./...

fmt:
    go tool gofumpt -w .

# formatting, vet, staticcheck, tidy modules, tests
check:
    test -z "$(go tool gofumpt -l .)" && go vet ./... && go tool staticcheck ./... && go mod tidy -diff && go test ./...

# the namespace lab with all its figures (root)
lab:
    go test -count=1 -timeout 60m -v -run TestLab ./node -lab.full

# 200 stock devices for half an hour, with churn (root)
soak:
    go test -count=1 -timeout 50m -v -run TestLabSoak ./node -lab.soak=30m

# stores under load killed with -9, one alone and three that exchange what they have
kills n="200":
    go test -count=1 -timeout 30m -v -run TestKill ./cluster -cluster.kills {{n}}

lab-strict:
    go test -count=1 -timeout 60m -v -run TestLab ./node -lab.full -lab.strict

# benchmarks of the packet path, six times, to bench/new.txt
bench:
    { echo "# $(date -u +%FT%TZ), $(uname -srm), $(uptime)"; go test -run='^$' -bench=. -count=6 -benchtime=300ms -timeout=60m ./bench ./vpn; } | tee bench/new.txt

# bench/new.txt beside the committed baseline
bench-compare:
    go tool benchstat bench/baseline.txt bench/new.txt

# our engine beside the module's device, in bench/new.txt
bench-engines:
    go tool benchstat -col /engine -ignore pkg -filter '/engine:(ours OR wireguard-go)' bench/new.txt

# gatemesh beside wireguard-go, its fork and OpenVPN (root, Linux); -short is one quick round
peers *args:
    go run -C bench/peers . {{args}}

benchonce:
    go test -run='^$' -bench=. -benchtime=1x ./...

cross:
    for t in linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64; do GOOS=${t%/*} GOARCH=${t#*/} CGO_ENABLED=0 go build -o /dev/null . || exit 1; done

fuzz seconds="30":
    for p in $(go list ./...); do for f in $(go test -list '^Fuzz' $p | grep ^Fuzz); do go test -run='^$' -fuzz="^$f\$" -fuzztime={{seconds}}s $p || exit 1; done; done

# 10,000 histories of replicas that crash, split, roll back and forget
simulate:
    go test -count=1 -timeout 120m -v -run 'TestSimulator$' ./cluster -cluster.seeds 10000

# the simulator must notice six mistakes, each within 10,000 histories
mutations:
    go test -count=1 -timeout 120m -v -run TestMutations ./cluster -cluster.mutations
