package importlog

// pinnedNote and logFiles are the log of 258 refusals that newLog makes, as first released. The root hash and the
// tiles were computed a second time by a program that knows RFC 6962 and C2SP tlog-tiles only.
const pinnedNote = `sallyport/north
258
QkpjlMzphu7EgAfuti3ax9O1pPsDH9QG/xiMieNPQEM=

— sallyport/north FhmDcCZkSXS4SYo4Y9MOMVZIKQGz/VoDdeCEDDGso+6Eg7/MVei8hLLbM2r08DB2MNXEi/R9COrOyRyVQVnWH1Jv+wQ=
`

const logFiles = `
checkpoint 179 f2231a8c72fccc2eed1e4ccb5cc6ed062800bd76b3db94c8ff16de33f71dad1e
tile/0/000 8192 c3827c1d38081458970f3882362523b8aa80c226666e1cb66025689741061272
tile/0/001.p/1 32 6a48d9fd5b8a55fa160b5f1bbc7ac72816645459ba10729810feb22080174518
tile/0/001.p/2 64 1d278dddc5afa2a21b7e42397ba5b5743ab374454f4f7d58e5f43b734d3998a3
tile/1/000.p/1 32 2e1df53d57078ab5479006045ee7111eba4f814ceac066dc1463d70dbf394664
tile/entries/000 34962 b524869cea91630a6afe3762e742d073dbb99919ebe237fa64c2136be74c282e
tile/entries/001.p/1 137 3b5f1b2a3431a51b90edd96e26cee7b1e302a55498598da403de65503361f5c4
tile/entries/001.p/2 274 5f9d12809bdc22436e4f87537c24883cead8274c195a5f8df59d6b33c001090f
`
