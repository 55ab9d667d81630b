package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// relay passes TCP connections on, and fails as a network does. What a held relay has taken it keeps, as the kernels at
// both ends of a broken line do, and passes on when the line is whole again; proxies made for tests drop it, which no
// network does to a connection that lives on.
type relay struct {
	listener net.Listener

	mu     sync.Mutex // guards the following
	target string
	gate   chan struct{} // closed while data may pass
	cut    bool          // connections are reset, new ones too
	delay  time.Duration // of each piece of data, either way
	conns  map[net.Conn]bool
}

func newRelay(target string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, target: target, gate: make(chan struct{}), conns: make(map[net.Conn]bool)}
	close(r.gate)
	go r.serve()
	return r, nil
}

func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) close() {
	_ = r.listener.Close()
	r.mend() // what waits there ends
	r.reset(true)
}

// hold lets nothing pass any more, and closes nothing.
func (r *relay) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = make(chan struct{})
}

// reset breaks all connections, and with cut each new one too.
func (r *relay) reset(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	for conn := range r.conns {
		_ = conn.Close()
	}
}

// mend ends what hold, reset and slow began.
func (r *relay) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut, r.delay = false, 0
	select {
	case <-r.gate:
	default:
		close(r.gate)
	}
}

// slow makes each piece of data late.
func (r *relay) slow(delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = delay
}

// aim breaks all connections and sends new ones to another target.
func (r *relay) aim(target string) {
	r.mu.Lock()
	r.target = target
	cut := r.cut
	r.mu.Unlock()
	r.reset(cut)
}

func (r *relay) serve() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		go r.join(conn)
	}
}

// join connects a connection with the target.
func (r *relay) join(near net.Conn) {
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
func (r *relay) keep(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.cut {
		r.conns[conn] = true
	}
	return !r.cut
}

func (r *relay) forget(conn net.Conn) {
	_ = conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

// pass waits until data may pass.
func (r *relay) pass() {
	r.mu.Lock()
	gate, delay := r.gate, r.delay
	r.mu.Unlock()
	time.Sleep(delay)
	<-gate
}

// pump copies until one side ends, of which the other side learns only when data may pass.
func (r *relay) pump(to, from net.Conn) {
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
