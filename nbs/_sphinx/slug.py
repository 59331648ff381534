"Anchors as nbdev writes them: lower case, dots kept"
import re

def slug(title): return re.sub(r'[^\w.\- ]', '', title.strip().lower()).replace(' ', '-')
