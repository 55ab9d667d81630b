package standby

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// underLock is all that may be called while a Keeper's lock is held, by whose it is: nothing that starts, stops or
// awaits a process, and nothing of Options.
var underLock = []string{"append", "len", "max", "min", "slices.Backward", "slices.Clone", "slices.Delete",
	"slices.DeleteFunc",
	"slices.IndexFunc", "time.Now", "time.Since", "life.Err", "ctx.Err", "demand.arrive", "demand.prefer",
	"demand.peakNow",
	"demand.missing", "demand.spare", "kind.fits", "make",
	"p.Alive", "p.Idle", "empty.Broadcast", "empty.Wait"}

func TestLock_NothingIsStartedStoppedOrAwaitedUnderIt(t *testing.T) {
	regions := 0
	check := func(statements ...ast.Stmt) {
		if len(statements) > 0 {
			regions++
		}
		for _, s := range statements {
			ast.Inspect(s, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && !strings.HasSuffix(nameOf(call), "Locked") {
					require.Contains(t, append(underLock, "mu.Unlock"), nameOf(call))
				}
				return true
			})
		}
	}
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if strings.HasSuffix(n.Name.Name, "Locked") {
					check(n.Body)
				}
			case *ast.BlockStmt:
				check(lockedPart(n)...)
			}
			return true
		})
	}
	require.Greater(t, regions, 5)
}

// lockedPart is what a block does between taking the Keeper's lock and giving it back, or to its end.
func lockedPart(block *ast.BlockStmt) []ast.Stmt {
	is := func(what string) func(ast.Stmt) bool {
		return func(s ast.Stmt) bool {
			e, ok := s.(*ast.ExprStmt)
			if !ok {
				return false
			}
			call, ok := e.X.(*ast.CallExpr)
			return ok && nameOf(call) == what && ownerOf(call) == "k"
		}
	}
	taken := slices.IndexFunc(block.List, is("mu.Lock"))
	if taken < 0 {
		return nil
	}
	after := block.List[taken+1:]
	if given := slices.IndexFunc(after, is("mu.Unlock")); given >= 0 {
		return after[:given]
	}
	return after
}

// nameOf is what is called, with the last name before it: empty.Wait for k.empty.Wait().
func nameOf(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		switch of := f.X.(type) {
		case *ast.Ident:
			return of.Name + "." + f.Sel.Name
		case *ast.SelectorExpr:
			return of.Sel.Name + "." + f.Sel.Name
		}
	}
	return "?"
}

// ownerOf is whose field has the method that is called: k for k.mu.Lock().
func ownerOf(call *ast.CallExpr) string {
	if f, ok := call.Fun.(*ast.SelectorExpr); ok {
		if field, ok := f.X.(*ast.SelectorExpr); ok {
			if of, ok := field.X.(*ast.Ident); ok {
				return of.Name
			}
		}
	}
	return ""
}

// sources are the package's files, without tests.
func sources(t *testing.T) (files []*ast.File) {
	t.Helper()
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
	}
	return files
}
