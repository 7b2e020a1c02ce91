package wasm

// Limits on an upload. They keep the time and memory that Prepare and the engine spend
// in proportion to the file, and they are far above what compilers emit. Where the JS
// embedding's limits or the engine's are lower, the lower number is used here, so that
// the author reads our message.
const (
	maxFileBytes      = 256 << 20
	maxNameBytes      = 100_000
	maxTypes          = 100_000
	maxParams         = 1_000 // of one function type; as many results
	maxImports        = 100_000
	maxFuncs          = 999_997 // imported and defined; Prepare adds up to three
	maxTables         = 16
	maxTableElems     = 10_000_000 // initial elements, all tables together
	maxGlobals        = 100_000
	maxExports        = 100_000
	maxElemSegments   = 100_000
	maxElems          = 10_000_000 // all element segments together
	maxDataSegments   = 100_000    // Go's linker writes tens of thousands
	maxReferable      = 500_000    // functions in Prepared.Funcs; the engine takes 1,000,000 exports in all
	maxLocals         = 50_000     // of one function, parameters included
	maxBodyBytes      = 7_654_321  // of one function, gates included
	maxNesting        = 50_000     // blocks open at once in one function
	maxConstExprDepth = 100        // values on the stack of one constant expression

	// maxMemoryPages leaves out the top page of the 4 GiB, as upstream's loader does: the
	// length of a memory then fits 32 bits.
	maxMemoryPages = 65_535
)
