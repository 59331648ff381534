"""A headless Chromium driven over its DevTools protocol, as a context manager; no driver program is needed.

Nothing here waits for ever: a command or a page that is not done within `patience` seconds raises `TimeoutError`."""
import json, subprocess, tempfile, time
from pathlib import Path
from shutil import which
from urllib.request import urlopen

from websockets.sync.client import connect

flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update', '--remote-debugging-port=0']

patience = 30  # seconds

def chromium(): return next((p for o in ('chromium', 'chromium-browser', 'google-chrome') if (p := which(o))), None)

def until(f, seconds=patience, what='the browser'):
    "Wait for `f` to return something true, and return it; raises `TimeoutError` after `seconds`"
    end = time.monotonic() + seconds
    while not (res := f()):
        if time.monotonic() > end: raise TimeoutError(f"{what}: nothing after {seconds} s")
        time.sleep(.02)
    return res

class Browser:
    "One tab. `go` opens a page, `js` evaluates, `errors` and `requests` hold what the page said and asked for"
    def __enter__(self):
        self.n,self.errors,self.requests,self.loaded,self.ws = 0,[],[],False,None
        self.dir = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [chromium(), *flags, f'--user-data-dir={self.dir.name}', 'about:blank']
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try: self.attach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def attach(self):
        "Connect to the tab as soon as Chromium says at which port"
        port = Path(self.dir.name)/'DevToolsActivePort'
        until(lambda: port.exists() and port.read_text().count('\n'), 2*patience, 'the start of Chromium')
        tabs = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        def tab():
            with urlopen(tabs, timeout=patience) as res: return [o for o in json.load(res) if o['type'] == 'page']
        self.ws = connect(until(tab)[0]['webSocketDebuggerUrl'], max_size=None, open_timeout=patience, close_timeout=5)
        for domain in ('Page', 'Runtime', 'Log', 'Network'): self.call(f'{domain}.enable')

    def __exit__(self, *exc):
        if self.ws: self.ws.close()
        self.process.terminate()
        try: self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.dir.cleanup()

    def read(self, end, what):
        "The next message; raises `TimeoutError` when none came before the time `end`"
        left = end - time.monotonic()
        if left <= 0: raise TimeoutError(f"{what}: not done after {patience} s")
        try: return json.loads(self.ws.recv(timeout=left))
        except TimeoutError: raise TimeoutError(f"{what}: not done after {patience} s") from None

    def call(self, method, **params):
        "Send one command and return its result, noting the events that come in between"
        self.n += 1
        self.ws.send(json.dumps(dict(id=self.n, method=method, params=params)))
        end = time.monotonic() + patience
        while True:
            msg = self.read(end, method)
            if msg.get('id') == self.n: break
            self.note(msg)
        if 'error' in msg: raise RuntimeError(f"{method}: {msg['error']}")
        return msg['result']

    def note(self, msg):
        p = msg.get('params', {})
        match msg.get('method'):
            case 'Page.loadEventFired': self.loaded = True
            case 'Network.requestWillBeSent': self.requests.append(p['request']['url'])
            case 'Runtime.exceptionThrown':
                details = p['exceptionDetails']
                self.errors.append(details.get('exception', {}).get('description', details['text']))
            case 'Runtime.consoleAPICalled' if p['type'] in ('error', 'assert'): self.errors.append(str(p['args']))
            case 'Log.entryAdded' if p['entry']['level'] == 'error': self.errors.append(p['entry']['text'])

    def go(self, url):
        self.loaded = False
        self.call('Page.navigate', url=url)
        end = time.monotonic() + patience
        while not self.loaded: self.note(self.read(end, url))

    def js(self, code):
        res = self.call('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in res: raise RuntimeError(res['exceptionDetails'])
        return res['result'].get('value')

    def width(self, px):
        "Make the window `px` wide; below 600 it is a phone's"
        self.call('Emulation.setDeviceMetricsOverride', width=px, height=800, deviceScaleFactor=1, mobile=px < 600)
