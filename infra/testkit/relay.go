package testkit

import (
	"io"
	"net"
	"sync"
	"time"
)

// Relay passes TCP connections on, and fails as a network does. What a held relay has taken it keeps, as the kernels at
// both ends of a broken line do, and passes on when the line is whole again; proxies made for tests drop it, which no
// network does to a connection that lives on.
type Relay struct {
	listener net.Listener

	mu     sync.Mutex // guards the following
	target string
	gate   chan struct{} // closed while data may pass
	cut    bool          // connections are reset, new ones too
	delay  time.Duration // of each piece of data, either way
	conns  map[net.Conn]bool
}

// NewRelay returns one on a loopback port of its own, which has to be closed. It dials target for each connection.
func NewRelay(target string) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{listener: listener, target: target, gate: make(chan struct{}), conns: make(map[net.Conn]bool)}
	close(r.gate)
	go r.serve()
	return r, nil
}

// Addr is the host:port where it listens.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Close breaks all connections and listens no more.
func (r *Relay) Close() {
	_ = r.listener.Close()
	r.Mend() // what waits there ends
	r.Reset(true)
}

// Hold lets nothing pass any more, and closes nothing.
func (r *Relay) Hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = make(chan struct{})
}

// Reset breaks all connections, and with cut each new one too.
func (r *Relay) Reset(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	for conn := range r.conns {
		_ = conn.Close()
	}
}

// Mend ends what Hold, Reset and Slow began.
func (r *Relay) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut, r.delay = false, 0
	select {
	case <-r.gate:
	default:
		close(r.gate)
	}
}

// Slow makes each piece of data late.
func (r *Relay) Slow(delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = delay
}

// Aim breaks all connections and sends new ones to another target.
func (r *Relay) Aim(target string) {
	r.mu.Lock()
	r.target = target
	cut := r.cut
	r.mu.Unlock()
	r.Reset(cut)
}

func (r *Relay) serve() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		go r.join(conn)
	}
}

// join connects a connection with the target.
func (r *Relay) join(near net.Conn) {
	defer r.forget(near)
	if !r.keep(near) {
		return
	}
	r.pass()
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	far, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return
	}
	defer r.forget(far)
	if !r.keep(far) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.pump(far, near) })
	both.Go(func() { r.pump(near, far) })
	both.Wait()
}

// keep enters a connection, and says whether it may live.
func (r *Relay) keep(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.cut {
		r.conns[conn] = true
	}
	return !r.cut
}

func (r *Relay) forget(conn net.Conn) {
	_ = conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

// pass waits until data may pass.
func (r *Relay) pass() {
	r.mu.Lock()
	gate, delay := r.gate, r.delay
	r.mu.Unlock()
	time.Sleep(delay)
	<-gate
}

// pump copies until one side ends, of which the other side learns only when data may pass.
func (r *Relay) pump(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		r.pass()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				_ = from.Close()
				return
			}
		}
		if err == io.EOF {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}
