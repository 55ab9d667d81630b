package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"claudepool/pool/pooltest"
)

// side is one of the two states of the code that are compared.
type side struct {
	name, commit string
	programs
	cli      string   // that new users get
	settings []string // of its service alone
}

// openSides builds both sides with the same commands into folders of their own, so that nothing but the code differs
// and nobody else's build takes a program's place meanwhile.
func (l *lab) openSides(ctx context.Context, o options) (sides [2]side, err error) {
	root, err := git(ctx, "", "rev-parse", "--show-toplevel")
	if err != nil {
		return sides, err
	}
	commit, err := commitOf(ctx, root, o.base)
	if err != nil {
		return sides, err
	}
	sides[base], sides[now] = side{name: "base", commit: commit}, side{name: "now"}
	if sides[now].commit, err = git(ctx, root, "describe", "--always", "--dirty"); err != nil {
		return sides, err
	}
	var realCLI string
	if !o.quick { // found out before anything is built
		if realCLI, err = pooltest.RealCLI(); err != nil {
			return sides, err
		}
	}
	source, err := l.checkOut(ctx, root, commit)
	if err != nil {
		return sides, err
	}
	for i, source := range []string{base: source, now: root} {
		s := &sides[i]
		l.say("building %s (%s)", s.name, s.commit)
		if s.programs, err = l.buildIn(source, s.name); err != nil {
			return sides, fmt.Errorf("%s (%s): %w", s.name, s.commit, err)
		}
		if s.cli = realCLI; o.quick {
			s.cli = s.scripted
		}
	}
	return sides, os.RemoveAll(source)
}

// commitOf is the short id of a commit by any of its names.
func commitOf(ctx context.Context, root, name string) (string, error) {
	id, err := git(ctx, root, "rev-parse", "--verify", "--short", "--end-of-options", name+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("no commit %q in this clone; a shallow one has only the latest, see git fetch --unshallow: %w",
			name, err)
	}
	return id, nil
}

// checkOut writes a commit's files into a folder. Unlike a worktree it leaves nothing in the repository.
func (l *lab) checkOut(ctx context.Context, root, commit string) (string, error) {
	source := filepath.Join(l.scratch, "source")
	if err := os.Mkdir(source, 0o700); err != nil {
		return "", err
	}
	packed := filepath.Join(l.scratch, "source.tar")
	defer os.Remove(packed)
	if _, err := git(ctx, root, "archive", "--format=tar", "--output="+packed, commit); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", packed, "-C", source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w: %s", err, out)
	}
	return source, nil
}

// buildIn builds the programs of the module at source.
func (l *lab) buildIn(source, name string) (programs, error) {
	folder, err := openFolder(l.scratch, name+"-")
	if err != nil {
		return programs{}, err
	}
	cmd := pooltest.GoBuild(folder, "./infra/local", "./pool/pooltest/scripted")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		return programs{}, fmt.Errorf("go build: %w: %s", err, out)
	}
	return programs{local: filepath.Join(folder, "local"), scripted: filepath.Join(folder, "scripted")}, nil
}

// git runs git in a folder and returns what it prints.
func git(ctx context.Context, folder string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = folder
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(failed.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}
