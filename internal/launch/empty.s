// This file lets the package declare functions without a body: start.go links to the runtime's fork hooks.
