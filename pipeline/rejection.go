package pipeline

import "sync"

// rejection is what open circuits have rejected of a lane or a batch, while letters about it are being written. What no
// letter can be written about, or whose circuit has closed, is recalled and tried again. Whoever made it waits for over,
// so that nothing behind it overtakes it.
type rejection struct {
	over chan struct{} // Holds a token once nothing is pending.

	mu       sync.Mutex
	pending  int
	recalled map[mark]struct{}
}

func (r *rejection) add(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == 0 {
		select { // All of what was added before is over and was not waited for yet.
		case <-r.over:
		default:
		}
	}
	r.pending += n
}

// resolve notes what has become of one message.
func (r *rejection) resolve(m mark, recalled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if recalled {
		if r.recalled == nil {
			r.recalled = make(map[mark]struct{})
		}
		r.recalled[m] = struct{}{}
	}
	if r.pending--; r.pending == 0 {
		signal(r.over)
	}
}

func (r *rejection) hasRecalls() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.recalled) > 0
}

// recalls takes what was recalled.
func (r *rejection) recalls() map[mark]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	recalled := r.recalled
	r.recalled = nil
	return recalled
}
