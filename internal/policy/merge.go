package policy

import (
	"path"
	"reflect"
	"slices"
	"strings"
)

// Merge lays over on top of base and gives a new policy. Single values of over win. Lists are joined, base first;
// of two environment variables with one key, or two mounts with one target, the later counts. Args and entrypoint are
// replaced whole. A capability that over drops is no longer added by base, and the other way round.
func Merge(base, over *Policy) *Policy {
	out := *base
	mergeStruct(reflect.ValueOf(&out).Elem(), reflect.ValueOf(over).Elem())
	if over.Args != nil {
		out.Args = over.Args
	}
	if over.Entrypoint != nil {
		out.Entrypoint = over.Entrypoint
	}
	out.Env = lastByKey(slices.Concat(base.Env, over.Env), func(e string) string { k, _, _ := strings.Cut(e, "="); return k })
	out.Mounts = lastByKey(slices.Concat(base.Mounts, over.Mounts), func(m Mount) string { return path.Clean(m.Target) })
	out.Capabilities = mergeCaps(base.Capabilities, over.Capabilities)
	return &out
}

// mergeStruct merges field by field: strings, numbers and pointers to booleans replace, structures merge, lists and
// maps join.
func mergeStruct(base, over reflect.Value) {
	for i := range over.NumField() {
		b, o := base.Field(i), over.Field(i)
		if o.IsZero() {
			continue
		}
		switch {
		case o.Kind() == reflect.Pointer && o.Elem().Kind() == reflect.Struct && !b.IsNil():
			merged := reflect.New(o.Elem().Type())
			merged.Elem().Set(b.Elem())
			mergeStruct(merged.Elem(), o.Elem())
			b.Set(merged)
		case o.Kind() == reflect.Slice:
			b.Set(reflect.AppendSlice(reflect.AppendSlice(reflect.MakeSlice(o.Type(), 0, b.Len()+o.Len()), b), o))
		case o.Kind() == reflect.Map:
			joined := reflect.MakeMap(o.Type())
			for _, m := range []reflect.Value{b, o} {
				for it := m.MapRange(); it.Next(); {
					joined.SetMapIndex(it.Key(), it.Value())
				}
			}
			b.Set(joined)
		default:
			b.Set(o)
		}
	}
}

// lastByKey keeps of several entries with one key the last, in the place of the first.
func lastByKey[T any](list []T, key func(T) string) []T {
	var out []T
	at := map[string]int{}
	for _, v := range list {
		k := key(v)
		if i, ok := at[k]; ok {
			out[i] = v
			continue
		}
		at[k] = len(out)
		out = append(out, v)
	}
	return out
}

func mergeCaps(base, over *Capabilities) *Capabilities {
	if base == nil || over == nil {
		if over != nil {
			return over
		}
		return base
	}
	without := func(list, gone []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(c string) bool {
			return slices.ContainsFunc(gone, func(g string) bool { return sameCap(g, c) || sameCap(g, "ALL") })
		})
	}
	return &Capabilities{
		Add:  append(without(base.Add, over.Drop), over.Add...),
		Drop: append(without(base.Drop, over.Add), over.Drop...),
	}
}

// sameCap compares capability names as people write them.
func sameCap(a, b string) bool {
	return strings.TrimPrefix(strings.ToUpper(a), "CAP_") == strings.TrimPrefix(strings.ToUpper(b), "CAP_")
}
