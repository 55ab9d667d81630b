package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

const (
	parallel = 1  // questions under way at a time
	maxAsked = 64 // users of one question: Redis does nothing else meanwhile
)

// asker asks Redis about users, one script for all that wait: a question that is alone goes at once, and those that
// come while others are under way go together next. So the more wait, the less each costs Redis.
type asker[A any] struct {
	parallel int
	// script answers for each user, in their order.
	script func(ctx context.Context, users []string) ([]A, error)

	mu      sync.Mutex // guards what follows
	asking  int        // parallel in use
	waiting []*question[A]
}

// question is one that waits until another has been answered. Its answers may be read when done is closed.
type question[A any] struct {
	ctx     context.Context // of the first user's request, but nobody's to cancel
	users   []string
	done    chan struct{}
	answers []A
	err     error
}

func (k *asker[A]) ask(ctx context.Context, user string) (answer A, err error) {
	k.mu.Lock()
	if k.asking < k.parallel {
		k.asking++
		k.mu.Unlock()
		answers, err := k.send(ctx, []string{user})
		if err != nil {
			return answer, err
		}
		return answers[0], nil
	}
	q, i := k.joinLocked(ctx, user)
	k.mu.Unlock()
	select {
	case <-q.done:
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	if q.err != nil {
		return answer, q.err
	}
	return q.answers[i], nil
}

func (k *asker[A]) joinLocked(ctx context.Context, user string) (q *question[A], i int) {
	if n := len(k.waiting); n > 0 && len(k.waiting[n-1].users) < maxAsked {
		q = k.waiting[n-1]
	} else {
		q = &question[A]{ctx: context.WithoutCancel(ctx), done: make(chan struct{})}
		k.waiting = append(k.waiting, q)
	}
	q.users = append(q.users, user)
	return q, len(q.users) - 1
}

// send runs the script, and then has the next question that waits answered.
func (k *asker[A]) send(ctx context.Context, users []string) ([]A, error) {
	answers, err := k.script(ctx, users)
	if err == nil && len(answers) != len(users) {
		err = fmt.Errorf("router: a script answered %d of %d questions", len(answers), len(users))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		k.failLocked(err)
	}
	if len(k.waiting) == 0 {
		k.asking--
		return answers, err
	}
	next := k.waiting[0]
	k.waiting = k.waiting[1:]
	go k.answer(next)
	return answers, err
}

// failLocked tells all questions that wait that Redis is away: one after the other would find it out much later.
func (k *asker[A]) failLocked(err error) {
	for _, q := range k.waiting {
		q.err = err
		close(q.done)
	}
	k.waiting = nil
}

func (k *asker[A]) answer(q *question[A]) {
	ctx, cancel := context.WithTimeout(q.ctx, claimTimeout)
	defer cancel()
	q.answers, q.err = k.send(ctx, q.users)
	close(q.done)
}
