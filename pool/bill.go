package pool

import (
	"context"
	"sync"

	"claudepool/infra/prices"
	"claudepool/infra/usage"
	"claudepool/pool/api"
	"claudepool/pool/broker"
)

// bill is what the API calls of one request take, from when its process is made ready. What is still under way at the
// request's end is added when it ends, and so is what its process calls afterwards, until it gets another bill. Its
// methods may be called concurrently; a nil bill counts nothing.
type bill struct {
	pool *Pool
	user string

	mu       sync.Mutex // guards the following
	key      string
	own      ownLimits
	budgets  bool       // there are some that its calls count for
	isOver   bool       // the request has come to its end
	isBegun  bool       // the turn itself has: what was called before it made its process ready
	sums     usage.Sums // that the ledger hasn't got
	spent    int64      // in billionths of a dollar
	answered int        // calls of the turn
	main     int        // of those, the main conversation's
	refusal  *api.Error // why a call was refused
}

// newBill returns a request's bill, nil where nobody counts.
func (u *user) newBill(req *api.Request) *bill {
	p := u.pool
	if p.opts.Ledger == nil {
		return nil
	}
	return &bill{pool: p, user: u.id, key: req.ServiceKey, own: ownLimitsOf(req), budgets: p.budgets.apply(req.ServiceKey)}
}

// charge has the process's calls count for the request.
func (s *slot) charge() {
	if s.bill != nil {
		s.process.Charge(s.bill)
	}
}

// Begin implements broker.Bill.
func (b *bill) Begin(ctx context.Context, main bool) error {
	err := b.check(ctx, main)
	if err == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusal = err
	return err
}

// check tells why a call must not be made, nil if it may.
func (b *bill) check(ctx context.Context, main bool) *api.Error {
	b.mu.Lock()
	err := b.own.check(b.spent, b.main, main)
	key, budgets := b.key, b.budgets
	b.mu.Unlock()
	if err != nil || !budgets {
		return err
	}
	return b.pool.budgets.check(ctx, b.user, key)
}

// End implements broker.Bill.
func (b *bill) End(main bool, took *broker.Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if took != nil {
		sum := usage.Of(prices.Call(*took))
		b.sums.Add(prices.Name(took.Model), sum)
		b.spent += sum.Cost
		if tell := b.pool.opts.Billed; tell != nil {
			tell(*took, float64(sum.Cost)/prices.Dollar)
		}
		if b.isBegun {
			b.answered++
		}
		if b.isBegun && main {
			b.main++
		}
	}
	b.tellLocked()
}

// begin is the begin of the request's turn.
func (b *bill) begin() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isBegun = true
}

// close is the request's end.
func (b *bill) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isOver = true
	b.tellLocked()
}

// tellLocked tells the ledger, once for a turn, and again of calls that end after it: what is known mustn't wait for
// what may never be. Where there are budgets it is told of each call, for other turns to know.
func (b *bill) tellLocked() {
	if b.budgets || b.isOver {
		b.payLocked()
	}
}

func (b *bill) payLocked() {
	if len(b.sums) == 0 {
		return
	}
	b.pool.opts.Ledger.Add(b.user, b.key, b.sums)
	b.sums = nil
}

// settle tells the ledger of what was called so far, for a turn that may wait for long.
func (b *bill) settle() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.payLocked()
}

// goOn has what is called from now on count for another request, which goes on with the turn.
func (b *bill) goOn(req *api.Request) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.payLocked()
	b.key, b.own, b.budgets = req.ServiceKey, ownLimitsOf(req), b.pool.budgets.apply(req.ServiceKey)
	b.spent, b.main, b.refusal = 0, 0, nil
}

// refused is why a call of the request was refused, nil where none was, and whether others of the turn were answered
// before.
func (b *bill) refused() (why *api.Error, hasBegun bool) {
	if b == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusal, b.answered > 0
}
