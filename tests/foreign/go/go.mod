module dqlite-py/foreign

go 1.21

require github.com/canonical/go-dqlite v1.11.5
