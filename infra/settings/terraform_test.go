package settings

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/stretchr/testify/require"
)

// deployment is what the Terraform folder says of settings: the keys of its maps of environment variables, by the
// map's name, and the names it lets operators set, by whose they are.
type deployment struct {
	maps     map[string][]string
	settable map[string][]string
}

// ofFramework is what the functions framework reads and not the service itself.
const ofFramework = "CLOUD_RUN_TIMEOUT_SECONDS"

func readTerraform(t *testing.T) deployment {
	t.Helper()
	files, err := filepath.Glob("../../terraform/*.tf")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	d := deployment{maps: map[string][]string{}, settable: map[string][]string{}}
	parser := hclparse.NewParser()
	for _, path := range files {
		file, problems := parser.ParseHCLFile(path)
		require.False(t, problems.HasErrors(), problems.Error())
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			switch {
			case block.Type == "locals":
				for name, attribute := range block.Body.Attributes {
					if object, ok := attribute.Expr.(*hclsyntax.ObjectConsExpr); ok {
						d.maps[name] = keysOf(object)
					}
				}
			case block.Type == "variable" && block.Labels[0] == "front_settings":
				d.settable[OfFront] = namesIn(block.Body)
			case block.Type == "variable" && block.Labels[0] == "pool_settings":
				d.settable[OfPool] = namesIn(block.Body)
			}
		}
	}
	return d
}

func keysOf(object *hclsyntax.ObjectConsExpr) (keys []string) {
	for _, item := range object.Items {
		keys = append(keys, hcl.ExprAsKeyword(item.KeyExpr))
	}
	return keys
}

// namesIn returns all strings of the lists in a block.
func namesIn(body *hclsyntax.Body) (all []string) {
	_ = hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
		if list, ok := node.(*hclsyntax.TupleConsExpr); ok {
			for _, e := range list.Exprs {
				if value, problems := e.Value(nil); !problems.HasErrors() {
					all = append(all, value.AsString())
				}
			}
		}
		return nil
	})
	return all
}

func without(name string, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

func TestTerraform_SetsWhatIsASettingAndNothingElse(t *testing.T) {
	d := readTerraform(t)
	side := map[string][]string{
		OfFront: without(ofFramework, append(d.maps["front_environment"], d.maps["front_secrets"]...)),
		OfPool:  append(d.maps["pool_environment"], d.maps["pool_secrets"]...),
	}
	known := map[string]Setting{}
	for _, s := range List() {
		known[s.Name] = s
	}
	for of, names := range side {
		require.NotEmpty(t, names, of)
		set := map[string]bool{}
		for _, name := range names {
			require.False(t, set[name], "%s of the %s is set twice", name, of)
			set[name] = true
			require.Contains(t, known, name)
			require.Contains(t, []string{OfBoth, of}, known[name].Of, "%s is no setting of the %s", name, of)
		}
		for _, s := range known {
			if s.Unset == "required" && (s.Of == OfBoth || s.Of == of) {
				require.True(t, set[s.Name], "%s of the %s is required", s.Name, of)
			}
		}
	}
	for of := range side {
		require.NotEmpty(t, d.settable[of], of)
		for _, name := range d.settable[of] {
			require.Contains(t, known, name)
			require.Contains(t, []string{OfBoth, of}, known[name].Of, name)
			require.NotContains(t, side[of], name, "operators can't set what the module sets itself")
			require.False(t, known[name].Secret, "%s must not stand in a variable", name)
		}
	}
	for _, name := range append(d.maps["front_environment"], d.maps["pool_environment"]...) {
		require.False(t, known[name].Secret, "%s must be set from its secret", name)
	}
}
