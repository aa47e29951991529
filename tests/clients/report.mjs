// One line a case and one at the end, as CI reads them; shared by the suites that run on node.

let passed = 0;
let failed = 0;

export function check(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

/** Runs one case under a deadline. A failed case is told and counted; the next one still runs. */
export async function run(name, work, deadline_ms = 60_000) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${deadline_ms} ms`)), deadline_ms);
  });
  try {
    await Promise.race([work(), deadline]);
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n        ${error.stack ?? error}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Prints the closing line and ends the process: with 1 where a case failed, or where none ran. */
export function finish() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}
